"""Files that d3rlpy itself reads; in a process of its own, since it imports the old gym."""

import json
import subprocess
import sys

import numpy as np
import pytest

from kd_offline import convert
from kd_offline.testing.factories import environment_spec, tiny_dataset

READ = """
import json, sys
from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer
from d3rlpy.dataset.io import load_v1
with open(sys.argv[1], "rb") as file:
    own = ReplayBuffer.load(file, InfiniteBuffer()).episodes
with open(sys.argv[2], "rb") as file:
    flat = load_v1(file)
columns = ("observations", "actions", "rewards", "terminated")
read = [[{c: getattr(e, c) for c in columns} for e in part] for part in (own, flat)]
print(json.dumps(read, default=lambda array: array.tolist()))
"""


def test_d3rlpy_reads_both_kinds(tmp_path):
    pytest.importorskip("h5py")
    spec = environment_spec((6, 4, 5), (5, 3, 4))
    buffer = tiny_dataset(tmp_path / "a.zarr", 6, spec=spec)
    convert(buffer.path, tmp_path / "own.h5", to="d3rlpy", agent="agent_1")
    convert(buffer.path, tmp_path / "flat.h5", to="d4rl", agent="agent_1")
    files = [tmp_path / "own.h5", tmp_path / "flat.h5"]
    done = subprocess.run(
        [sys.executable, "-c", READ, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    stops = np.cumsum(buffer.episodes("length"))
    parts = json.loads(done.stdout.splitlines()[-1])
    assert [len(part) for part in parts] == [6, 6]
    for part in parts:
        for stop, length, episode in zip(stops, buffer.episodes("length"), part, strict=True):
            rows = slice(int(stop) - int(length), int(stop))
            obs = np.array(episode["observations"], np.float32)
            assert np.array_equal(obs, buffer.read("steps/obs")[rows, 1, :4])
            actions = np.array(episode["actions"])[:, 0]
            assert np.array_equal(actions, buffer.read("steps/actions")[rows, 1])
            rewards = np.array(episode["rewards"], np.float32)[:, 0]
            assert np.array_equal(rewards, buffer.read("steps/reward")[rows, 1])
            assert episode["terminated"] == bool(buffer.read("steps/terminated")[stop - 1])
