"""A tiny expert, a recording of it and a distilled run, made once through the command line."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kd_offline.cli.app import app

# Runs its arguments as commands in one process: Python and PyTorch start once.
ONE_AFTER_THE_OTHER = """
import sys
from kd_offline.cli.app import app

for line in sys.argv[1:]:
    try:
        app(line.split(), prog_name="kd-offline")
    except SystemExit as done:
        if done.code:
            raise
"""
SPREAD = "mpe/simple_spread_v3"


def kd(*arguments, code=0):
    """Run a command and return what it printed; its exit code must be ``code``."""
    done = CliRunner().invoke(app, [str(x) for x in arguments], prog_name="kd-offline")
    if done.exit_code != code:
        raise AssertionError(f"exit {done.exit_code}, not {code}:\n{done.output}") from (
            done.exception
        )
    return done


def kd_json(*arguments, code=0):
    """Run a command with --json and return its one document."""
    return json.loads(kd(*arguments, "--json", code=code).stdout)


def refused(*arguments, code):
    """Run a command that must fail with one sentence, and return the sentence."""
    done = kd(*arguments, code=code)
    assert done.stdout == ""
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@dataclass(frozen=True)
class Workplace:
    """Paths of what the session made."""

    root: Path

    @property
    def expert(self):
        return self.root / "expert"

    @property
    def dataset(self):
        return self.root / "dataset.zarr"

    @property
    def run(self):
        return self.root / "run"


TRAIN = ["train", SPREAD, "--frames", "12800", "--threads", "1", "--score", "64"]
RECORD = ["record", SPREAD, "--episodes", "120", "--batch", "50", "--threads", "1"]
DISTILL = ["--epochs", "2", "--batch", "32", "--threads", "1", "--policy-term", "none"]
DISTILL += ["--set", "weights.policy=0"]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The whole pipeline with a tiny expert."""
    place = Workplace(tmp_path_factory.mktemp("pipeline"))
    kd(*TRAIN, "-o", place.expert)
    kd(*RECORD, "--expert", place.expert, "-o", place.dataset)
    kd(
        *("distill", place.dataset, "-o", place.run, "--mask", "limited"),
        *("--hidden", "16,8,8", "--seeds", "2", *DISTILL),
    )
    return place


class Forks:
    """Runs of the command line in children of one process, see forks.py."""

    def __init__(self, folder):
        self.folder = folder
        script = Path(__file__).with_name("forks.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def __call__(self, *arguments, **job):
        """Return exit code (negative: killed by that signal) and stderr of a command."""
        job |= {"arguments": [str(argument) for argument in arguments]}
        job |= {name: str(self.folder / name) for name in ("out", "err", "counted")}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, (self.folder / "err").read_text()

    @property
    def events(self):
        """How much happened to the watched files in the last run that was not killed."""
        return int((self.folder / "counted").read_text().split()[0])


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Run commands in children of one process, which may be killed or interrupted."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.process.communicate()
    assert forks.process.returncode == 0
