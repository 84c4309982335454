"""The completion protocol of the shell, in a process of its own, and the lists behind it."""

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


@pytest.mark.parametrize("line", WANTED)
def test_the_shell_completes_names(line):
    words = f"kd-offline {line}".split(" ")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kd_offline"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_KD_OFFLINE_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert set(WANTED[line]) <= set(done.stdout.split())
    assert all(name.startswith(words[-1]) for name in done.stdout.split())
    loaded = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "zarr", "jax", "mpe2", "pettingzoo"}


def test_the_lists_are_those_of_the_code():
    assert set(completion.METHODS) == set(METHODS)
    for name in completion.environments("grid/") + completion.environments("mpe/"):
        assert load(name).spec.id == name
    for name in completion.environments("smax/"):
        pytest.importorskip("jaxmarl")
        assert load(name).spec.id.startswith("smax/")
