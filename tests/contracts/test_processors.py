"""`make test-processors` holds libraries to what older processors have, in every process."""

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from numpy._core._multiarray_umath import __cpu_features__ as HAS  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[2]
# What libraries say of themselves in a process of its own.
ASKED = """
import json
import numpy as np, torch
from numpy._core._multiarray_umath import __cpu_features__ as has
print(json.dumps([torch.backends.cpu.get_cpu_capability(), has["X86_V3"], has["X86_V4"]]))
"""
WANTED = {"AVX2": ["AVX2", True, False], "SSE": ["DEFAULT", False, False]}


def settings(name: str) -> dict[str, str]:
    """Return the variables of the Makefile's ``name``."""
    text = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith(f"{name} := "))
    return dict(word.split("=", 1) for word in shlex.split(line.partition(" := ")[2]))


def run(*words: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python with further variables."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(not HAS.get("AVX2"), reason="needs a processor with AVX2")
@pytest.mark.parametrize("name", WANTED)
def test_its_settings_take_effect_without_a_warning(name):
    done = run("-c", ASKED, settings=settings(name))
    assert done.stderr == ""
    assert json.loads(done.stdout) == WANTED[name]


def test_tests_run_where_a_processor_never_had_what_is_left_out():
    """NumPy then warns as it is imported, and warnings are errors."""
    nobody_has = {"NPY_DISABLE_CPU_FEATURES": "X86_V4 NO_SUCH_FEATURE"}
    done = run("-m", "pytest", "-q", "--collect-only", __file__, settings=nobody_has)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "path",
    sorted(path for path in ROOT.glob("tests/**/*.py") if "subprocess" in path.read_text("utf-8")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_programs_that_tests_start_inherit_them(path):
    tree = ast.parse(path.read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    given = [k.value for call in calls for k in call.keywords if k.arg == "env"]
    for value in given:
        assert "environ" in ast.unparse(value), f"env={ast.unparse(value)}"
