"""Print how many tests of a JUnit report passed, failed and were skipped; exit 1 on a failure."""

import sys
from pathlib import Path
from xml.etree import ElementTree


def outcome(test: ElementTree.Element) -> str:
    """Return `passed`, `failed` or `skipped`; an error in a fixture is a failure."""
    if test.find("failure") is not None or test.find("error") is not None:
        return "failed"
    return "passed" if test.find("skipped") is None else "skipped"


def main(report: Path) -> int:
    """Print the counts as the last line that a reader of the log looks for."""
    tests = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    outcomes = [outcome(test) for test in tests]
    counts = ", ".join(f"{outcomes.count(x)} {x}" for x in ("passed", "failed", "skipped"))
    print(f"tests: {counts}")
    return 0 if "passed" in outcomes and "failed" not in outcomes else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
