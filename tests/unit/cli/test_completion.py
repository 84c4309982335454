"""The completion protocol of the shell, in a process of its own, and the lists behind it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kd_offline
from kd_offline.cli import completion
from kd_offline.distillation.methods import METHODS
from kd_offline.environments import load

ROOT = Path(kd_offline.__file__).parents[1]

WANTED = {
    "distill d.zarr --method ": METHODS,
    "distill d.zarr --method kd": ("kd-marl", "kd-marl-eq6"),
    "distill d.zarr --mask ": ("full", "limited", "paper"),
    "distill d.zarr --recipe lh": ("lh", "lh-a"),
    "distill d.zarr --device stm": ("stm32f4", "stm32h7"),
    "record --expert b": ("bundled", "bundled:large", "bundled:mlp", "bundled:masked"),
    "record mpe/": ("mpe/simple_spread_v3", "mpe/simple_adversary_v3"),
    "train smax/": ("smax/3m", "smax/8m"),
    "train --recipe smax-3m": ("smax-3m-default", "smax-3m-masked"),
    "hardware stm32f": ("stm32f4",),
    "schema run": ("run",),
    "dist": ("distill",),
}


COMPLETE = """
import contextlib, io, json, os, sys
from kd_offline.cli.app import app

answers = {}
for line in json.loads(sys.argv[1]):
    words = f"kd-offline {line}".split(" ")
    os.environ |= {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        app(prog_name="kd-offline")
    answers[line] = shown.getvalue().split()
print(json.dumps([answers, sorted(sys.modules)]))
"""


def asked(command, **environment):
    environment |= {"PYTHONPATH": str(ROOT), "_KD_OFFLINE_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def answers():
    """Return what is offered for each line, and the modules that it took, of one process."""
    return json.loads(asked(["-c", COMPLETE, json.dumps(list(WANTED))]))


@pytest.mark.parametrize("line", WANTED)
def test_the_shell_completes_names(line, answers):
    offered = answers[0][line]
    assert set(WANTED[line]) <= set(offered)
    assert all(name.startswith(line.split(" ")[-1]) for name in offered)


def test_completion_loads_nothing_heavy(answers):
    assert not set(answers[1]) & {"torch", "numpy", "zarr", "jax", "mpe2", "pettingzoo"}


def test_the_shell_asks_the_command_itself():
    words = "kd-offline dist"
    assert asked(["-m", "kd_offline"], COMP_WORDS=words, COMP_CWORD="1").split() == ["distill"]


def test_the_lists_are_those_of_the_code():
    assert set(completion.METHODS) == set(METHODS)
    for name in completion.environments("grid/") + completion.environments("mpe/"):
        assert load(name).spec.id == name
    for name in completion.environments("smax/"):
        pytest.importorskip("jaxmarl")
        assert load(name).spec.id.startswith("smax/")
