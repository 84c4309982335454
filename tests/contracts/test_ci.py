"""The last line of `.ci/run` tells what the tests did."""

import subprocess
import sys
from pathlib import Path

import pytest

COUNT = Path(__file__).parents[2] / ".ci" / "count_tests.py"
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
        [sys.executable, COUNT, report], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("chosen", "code", "line"),
    [
        ("a or c or f", 0, "tests: 1 passed, 0 failed, 2 skipped"),
        ("a or b or c or d or e or f", 1, "tests: 1 passed, 3 failed, 2 skipped"),
    ],
)
def test_the_last_line_counts_errors_as_failures(chosen, code, line, tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    report = tmp_path / "build" / "tests.xml"
    names = " or ".join(f"test_{x}" for x in chosen.split(" or "))
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", "--junit-xml"]
    subprocess.run(
        [*run, report, "-k", names, tmp_path], cwd=tmp_path, check=False, capture_output=True
    )
    assert report.is_file()
    assert count(report) == (code, line)


def test_a_run_without_a_report_has_failed(tmp_path):
    assert count(tmp_path / "none.xml") == (1, "tests: 0 passed, 0 failed, 0 skipped")
