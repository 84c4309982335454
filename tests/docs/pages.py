"""Type the blocks of a page as a reader would: in order, in one folder, with sizes made small."""

import atexit
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from typer.testing import CliRunner

from kd_offline.cli.app import app

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
EXPERTS = ROOT / "tests" / "compatibility" / "foreign_experts"
BLOCK = re.compile(r"^( *)```([^\n`]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# Languages whose blocks are typed. A TOML or C block is a file: its first line names it.
TYPED = ("sh", "bash", "python", "toml", "c")
SMALL_BATCH = ["--set", "episodes_per_batch=32"]
SMALL = {
    "train": ["--frames", "1600", "--score", "4", "--threads", "1", *SMALL_BATCH],
    "record": ["--episodes", "48", "--threads", "1"],
    "distill": ["--epochs", "1", "--threads", "1"],
    "sweep": ["--trials", "2", "--epochs", "1", "--episodes", "50"],
    "evaluate": ["--episodes", "20", "--threads", "1"],
    "audit": ["--episodes", "20", "--threads", "1"],
    "profile": ["--episodes", "20"],
    "dagger": ["--rounds", "1", "--episodes", "20", "--evaluation-episodes", "20"],
    "ppd": ["--frames", "800", "--set", "start.critic_frames=400", "--threads", "1"],
    "adapt": ["--episodes", "20"],
    "bench quantisation": ["--episodes", "20"],
    "bench latency": ["--rounds", "2", "--steps", "5"],
    "doctor calibrate": ["--rounds", "2", "--steps", "5", "--widths", "8,16,24"],
}


# Recordings of experts that a page trains itself: so short a training leaves no critic to use.
TAUGHT_BY_BEGINNERS = ("3m.zarr", "dataset-3.zarr")
# Commands that answer no by exit code 1.
ANSWERS = {"diff": (0, 1), "deploy-check": (0, 1)}


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.strip().partition("\n")[0]


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = BLOCK.findall(path.read_text("utf-8"))
    return [Block(language, _undented(text, len(indent))) for indent, language, text in found]


def _undented(text: str, width: int) -> str:
    return "".join(line[width:] for line in text.splitlines(keepends=True))


def lines(text: str) -> list[str]:
    """Return the commands of a shell block, one a line; a backslash continues a line."""
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def words(line: str) -> list[str]:
    """Return the words of a command as a shell would: without comments, ``~`` as the home."""
    return [os.path.expanduser(word) for word in shlex.split(line, comments=True)]  # noqa: PTH111


def follow(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type every block of ``page`` in ``folder``, which is the working directory and the home.

    Raises
    ------
    AssertionError
        With the line and what it printed, if it fails.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("KD_OFFLINE_CACHE", "cache")
    text = " ".join(page.read_text("utf-8").split())
    for words_of_page, prepare in ANNOUNCED.items():
        if words_of_page in text:
            prepare(folder)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "sh":
            for line in lines(block.text):
                if line == "export PYTHONPATH=$PWD":
                    monkeypatch.syspath_prepend(folder)
                else:
                    type_command(line)
        elif block.language == "bash":
            type_into_shell(block.text)
        elif block.language == "python":
            _save(block, folder)
            run_python(block.text, page, names)
        elif block.language in TYPED:
            _save(block, folder)


def type_command(line: str) -> None:
    """Run one command line of kd-offline, with the page's own size replaced by a small one."""
    program, name, *arguments = words(line)
    assert program == "kd-offline", line
    less = SMALL.get(" ".join([name, *arguments[:1]]), SMALL.get(name, []))
    if name == "train" and {"vdn", "qmix", "ddn"} & {*arguments}:
        less = [*less, "--set", "q_learning.updates_per_batch=2"]
    if name == "distill" and "gates" in arguments:
        less = [*less, "--epochs", "2"]  # one with gates, one without
    if name == "distill" and "--diverse" in arguments:
        less = [*less, "--set", "optimisation.batch_episodes=16"]  # of the 43 that there are
    if "--seeds" in arguments:
        less = [*less, "--seeds", "2"]
    if name == "distill" and arguments[0] in TAUGHT_BY_BEGINNERS:
        less = [*less, "--policy-term", "none", "--set", "weights.policy=0"]
    done = CliRunner().invoke(app, [name, *arguments, *less], prog_name="kd-offline")
    assert done.exit_code in ANSWERS.get(name, (0,)), f"{line}\n{done.output}"


def type_into_shell(text: str) -> None:
    """Run a block with pipes, or of other programs, in bash."""
    command = f'kd-offline() {{ {shlex.quote(sys.executable)} -m kd_offline "$@"; }}\n{text}'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


def run_python(text: str, page: Path, names: dict[str, Any]) -> None:
    """Run a block of Python; the blocks of a page share their names, as in one session."""
    small = re.sub(r"(episodes|frames)=([\d_]+)", _less, text)
    small = small.replace("seeds=2", 'settings={"optimisation.epochs": 1, "threads": 1}')
    exec(compile(small, page.name, "exec"), names)


def _less(setting: re.Match[str]) -> str:
    name, value = setting.groups()
    return f"{name}={min(int(value), 48 if name == 'episodes' else 1600)}"


def _save(block: Block, folder: Path) -> None:
    """Save a block under the name that its first line announces: ``# mine.toml: ...``."""
    if named := re.match(r"(?:#|/\*) ([\w.-]+\.\w+)(?::| \*/|$)", block.first_line):
        (folder / named[1]).write_text(block.text, "utf-8")


def _clone(folder: Path) -> None:
    (folder / "cli").symlink_to(ROOT / "cli")


def _key(folder: Path) -> None:
    key = folder / ".ssh" / "id_ed25519"
    key.parent.mkdir(mode=0o700)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", str(key)]
    subprocess.run(command, check=True, timeout=60)


def _checkpoints(folder: Path) -> None:
    shutil.copytree(EXPERTS / "epymarl_mappo_ns_rnn", folder / "results/models/run/20050000")
    shutil.copytree(EXPERTS / "onpolicy_mappo_mlp", folder / "models")
    shutil.copy(next(EXPERTS.glob("benchmarl_mappo_mlp/*.pt")), folder / "checkpoint_100.pt")
    torch.save(torch.nn.Linear(18, 5), folder / "model.pt")  # a whole object


@cache
def _quickstart() -> Path:
    """Return a folder with what the quickstart leaves, at a small size."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    dataset, run = str(folder / "dataset.zarr"), str(folder / "run")
    for name, *arguments in (
        ["record", "mpe/simple_spread_v3", "-o", dataset],
        ["distill", dataset, "-o", run, "--mask", "limited", "--seeds", "2"],
    ):
        done = CliRunner().invoke(app, [name, *arguments, *SMALL[name]])
        assert done.exit_code == 0, done.output
    return folder


def _dataset(folder: Path) -> None:
    shutil.copytree(_quickstart() / "dataset.zarr", folder / "dataset.zarr")


def _run(folder: Path) -> None:
    _dataset(folder)
    shutil.copytree(_quickstart() / "run", folder / "run")


# What a reader has who comes to a page, in the words by which the page says so.
ANNOUNCED: dict[str, Callable[[Path], None]] = {
    "`dataset.zarr` of the [quickstart](quickstart.md)": _dataset,
    "`dataset.zarr` of the [quickstart](../guide/quickstart.md)": _dataset,
    "`dataset.zarr` and `run/` of the [quickstart](quickstart.md)": _run,
    "a clone of the repository": _clone,
    "signed with an SSH key, the one that you already": _key,
    "`results/models/<run>/<step>/`, with `save_model=True`": _checkpoints,
}
