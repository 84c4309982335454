"""Without PyTorch, datasets are read, checked and edited; other commands say what is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "datasets" / "tiny-spread" / "dataset.zarr"
ABSENT = """
import json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
"""
COMMANDS = """
from typer.testing import CliRunner
from kd_offline.cli.app import app

for line in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, line.split(), prog_name="kd-offline")
    print(json.dumps([done.exit_code, done.output]))
"""
LIGHT = """
inspect data.zarr
inspect data.zarr --html page.html
verify data.zarr
split data.zarr -o split.zarr --heldout 0.25
filter data.zarr -o filtered.zarr --where length>=25
merge filtered.zarr split.zarr -o merged.zarr --allow-duplicates
diff data.zarr filtered.zarr
annotate data.zarr -o said.zarr --licence MIT
card data.zarr -o card.md
croissant data.zarr -o croissant.json
convert data.zarr -o data.h5 --to hdf5
convert data.h5 -o back.zarr
pack data.zarr -o data.zip
verify data.zip
verify data.zarr --replay 1
envs mpe/simple_spread_v3
schema run
hardware
doctor
distill --help
""".strip().splitlines()
HEAVY = """
train mpe/simple_spread_v3 -o expert
record mpe/simple_spread_v3 -o new.zarr --episodes 10
distill data.zarr -o run
sweep data.zarr -o sweep
rerun run
evaluate run
export run
profile run
bench latency run
doctor calibrate -o mine.toml
verify data.zarr --relabel 1
""".strip().splitlines()


def without_torch(code, *arguments, cwd):
    """Run Python in a process that cannot import torch; return the lines it printed."""
    done = subprocess.run(
        [sys.executable, "-c", ABSENT + code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def place(tmp_path):
    (tmp_path / "data.zarr").symlink_to(DATA)
    return tmp_path


def test_reading_editing_and_converting_need_no_torch(place):
    lines = without_torch(COMMANDS, json.dumps(LIGHT), cwd=place)
    for command, line in zip(LIGHT, lines, strict=True):
        code, output = json.loads(line)
        assert code == command.startswith("diff"), f"{command}\n{output}"  # 1: they differ


def test_every_command_that_needs_torch_says_how_to_get_it(place):
    lines = without_torch(COMMANDS, json.dumps(HEAVY), cwd=place)
    for command, line in zip(HEAVY, lines, strict=True):
        code, output = json.loads(line)
        assert code == 2, f"{command}\n{output}"
        *_, last = output.splitlines()
        assert last == (
            f"error: kd-offline {command.split()[0]} needs the library 'torch', which is not "
            "installed: run pip install 'kd-offline[torch]'"
        )


def test_batches_are_numpy_without_torch_and_the_rest_of_the_interface_says_what_is_missing(place):
    code = """
import kd_offline
from kd_offline.datasets.loading.loader import Loader

loader = Loader.open("data.zarr", ["steps/obs", "steps/logits"], batch=2)
print(next(loader.batches(epochs=1))["steps/obs"].shape)
for name in ("distill", "load_students"):
    try:
        getattr(kd_offline, name)
    except kd_offline.KdOfflineError as error:
        print(error)
"""
    shape, *sentences = without_torch(code, cwd=place)
    assert shape == "(2, 25, 3, 18)"
    assert sentences == [
        f"kd_offline.{name} needs the library 'torch', which is not installed: "
        "run pip install 'kd-offline[torch]'"
        for name in ("distill", "load_students")
    ]
