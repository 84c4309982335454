"""`.ci/run` decides by the code alone, and its last line tells what the tests did."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
COUNT = ROOT / ".ci" / "count_tests.py"
TESTS = """
import pytest

def test_a(): pass
def test_b(): assert False
def test_c(): pytest.skip("no")

@pytest.fixture
def broken(): raise OSError
def test_d(broken): pass

@pytest.fixture
def leaves(): yield; raise OSError
def test_e(leaves): pass

@pytest.mark.xfail(reason="known")
def test_f(): assert False
"""


def count(report):
    done = subprocess.run(
        [sys.executable, "-S", COUNT, report], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.splitlines()[-1]


def test_the_last_line_counts_errors_as_failures(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    report = tmp_path / "build" / "tests.xml"
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist.plugin"]
    subprocess.run(
        [*run, "-n", "1", "--junit-xml", report, tmp_path],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False,
        capture_output=True,
    )
    assert count(report) == (1, "tests: 1 passed, 3 failed, 2 skipped")
    document = ElementTree.parse(report)
    (suite,) = document.iter("testsuite")
    for test in list(suite):
        if test.get("name") in {"test_b", "test_d", "test_e"}:
            suite.remove(test)
    document.write(report)
    assert count(report) == (0, "tests: 1 passed, 0 failed, 2 skipped")


def test_a_run_without_a_report_has_failed(tmp_path):
    assert count(tmp_path / "none.xml") == (1, "tests: 0 passed, 0 failed, 0 skipped")


_DRAWN_TWICE = """
from hypothesis import given, strategies
from tests.properties import examples

drawn = []

@given(strategies.integers(0, 2**64))
@examples(20)
def draw(number):
    drawn[-1].append(number)

for _ in range(2):
    drawn.append([])
    draw()
print(drawn[0] == drawn[1])
"""


def test_hypothesis_draws_the_same_examples_in_every_run_of_ci_and_others_elsewhere():
    script = (ROOT / ".ci" / "run").read_text()
    (ci,) = re.findall(r"^export (CI)=true$", script, re.MULTILINE)
    assert script.index("export CI=") < script.index("make demo")
    elsewhere = {name: value for name, value in os.environ.items() if name != ci}
    elsewhere["PYTHONPATH"] = str(ROOT)
    for environment, same in ((elsewhere | {ci: "true"}, "True"), (elsewhere, "False")):
        done = subprocess.run(
            [sys.executable, "-c", _DRAWN_TWICE],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == same
