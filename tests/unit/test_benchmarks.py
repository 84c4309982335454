"""Every benchmark starts, and says in one sentence which library it lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.libraries import require

ROOT = Path(__file__).parents[2]
NAMES = [
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "parse_args" in path.read_text()
]


def test_every_benchmark_explains_its_options():
    """In one process, because most of the time goes into importing PyTorch."""
    code = (
        "import runpy, sys\n"
        f"for name in {NAMES!r}:\n"
        "    sys.argv = [name, '--help']\n"
        "    try:\n"
        "        runpy.run_module('benchmarks.' + name, run_name='__main__')\n"
        "    except SystemExit as error:\n"
        "        assert not error.code, name\n"
        "    else:\n"
        "        raise AssertionError(name)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_library_is_one_sentence(capsys):
    require("bench", "numpy")
    with pytest.raises(SystemExit) as stopped:
        require("convert,bench", "numpy", "no_such_library")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: this benchmark needs no_such_library, which is not installed: "
        "run pip install -e '.[convert,bench]'\n"
    )
