"""Streams of a real process: closed, full, of a poor encoding, and with others who print."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kd_offline
from kd_offline.datasets import verify
from kd_offline.testing.factories import tiny_dataset

ROOT = Path(kd_offline.__file__).parents[1]
NOISY = """
import atexit, ctypes, os, subprocess, sys
from mpe2 import simple_spread_v3

print("printed at import")
sys.stdout.write("written at import\\n")
os.write(1, b"written to the descriptor\\n")
os.system("echo from a child")
ctypes.CDLL(None).puts(b"from C")
sys.__stdout__.write("written to the first stdout\\n")
atexit.register(print, "printed at exit")
atexit.register(os.write, 1, b"written at exit\\n")
parallel_env = simple_spread_v3.parallel_env
"""


def shell(command, cwd, **environment):
    """Run a shell command in which ``kd`` is the command line."""
    kd = f'kd() {{ "{sys.executable}" -m kd_offline "$@"; }}; '
    return subprocess.run(
        ["bash", "-c", kd + command],
        cwd=cwd,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{cwd}", **environment},
    )


def test_what_an_environment_prints_never_gets_into_the_document(tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    done = shell("kd envs pettingzoo/noisy:parallel_env --json", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agents"] == ["agent_0", "agent_1", "agent_2"]
    for text in ("printed at import", "to the descriptor", "from a child", "from C", "at exit"):
        assert text in done.stderr.decode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The path of a small dataset."""
    return tiny_dataset(tmp_path_factory.mktemp("streams") / "whole.zarr", 40).path


@pytest.mark.parametrize(
    "closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "2>&1 >&- | true"]
)
def test_a_stream_that_is_closed_or_full_never_ends_the_work(whole, tmp_path, closed):
    shell(f"kd split {whole} -o made.zarr {closed}; echo $? > code", tmp_path)
    assert (tmp_path / "code").read_text() == "0\n"
    assert verify(tmp_path / "made.zarr").ok


def test_a_recording_does_not_need_its_streams(tmp_path):
    command = "record mpe/simple_spread_v3 --episodes 4 --threads 1 -o made.zarr"
    shell(f"kd {command} >&- 2>&-; echo $? > code", tmp_path)
    assert (tmp_path / "code").read_text() == "0\n"
    assert verify(tmp_path / "made.zarr").ok


def test_a_full_disk_behind_stdout_is_said_when_the_work_is_done(tmp_path):
    done = shell("kd envs > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: cannot write to the standard output: No space left")
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_leaves_is_no_error(tmp_path):
    done = shell("kd schema run | head -1; echo ${PIPESTATUS[0]} > code", tmp_path)
    assert done.stdout == b"{\n"
    assert done.stderr == b""
    left = shell("(sleep 0.1; kd schema run; echo $? > code) | true", tmp_path)
    assert left.stderr == b""
    assert (tmp_path / "code").read_text() == "141\n"


@pytest.mark.parametrize(
    "poor",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C"}],
    ids=str,
)
def test_other_scripts_pass_through_a_poor_encoding(tmp_path, poor):
    name = "学習 ± é"
    done = shell(f"kd inspect '{name}' --json", tmp_path, **poor)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert json.loads(done.stdout)
    shown = shell("kd hardware", tmp_path, **poor)
    assert (shown.returncode, shown.stderr) == (0, b"")


def test_a_markdown_document_keeps_its_letters_as_entities_where_stdout_lacks_them(monkeypatch):
    import io

    from kd_offline.cli import output

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "cp1252"))
    output.markdown("# 学 é")
    assert raw.getvalue() == b"# &#23398; &#233;\n"
