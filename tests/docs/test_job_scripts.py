"""The job scripts of a page do what it says; Slurm and torchrun are replaced by their variables."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from kd_offline.datasets import ExpertBuffer
from kd_offline.recording.record import record
from tests.docs.pages import GUIDE, ROOT, blocks, lines, type_command

SCRIPTS = [block.text for block in blocks(GUIDE / "scale.md") if "#SBATCH" in block.text]
SMALL = {"2000000": "40", "--batch 1000": "--batch 10", "--threads 4": "--threads 1"}


def submit(script, **variables):
    """Type the commands of a job script with the variables that Slurm sets."""
    for old, new in (SMALL | {f"${name}": value for name, value in variables.items()}).items():
        script = script.replace(old, new)
    for line in lines(script):
        if line.startswith("kd-offline"):
            type_command(line)


def test_an_array_of_shards_and_a_requeued_task_make_the_undivided_recording(tmp_path, monkeypatch):
    array, last = SCRIPTS
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.docs.pages.SMALL", {})
    for task in ("2", "1", "1", "3"):  # the second is queued again
        submit(array, SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT="3")
    submit(last.replace("shards/*.zarr", "shards/3.zarr shards/1.zarr shards/2.zarr"))
    whole = record("mpe/simple_spread_v3", "one.zarr", seed=1, episodes=40, batch=10, threads=1)
    assert ExpertBuffer.open("whole.zarr").id == whole.id


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_job_may_be_queued_again(script):
    assert "--requeue" in script
    assert "--resume" in script


# Starts processes as torchrun does, as children that share one import of PyTorch.
STARTS = """
import json, os, runpy, sys, torch, torch._dynamo, torch.distributed
import kd_offline.datasets, kd_offline.datasets.loading.torch_loading
children = []
for variables in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os.environ |= variables
        runpy.run_path("ddp.py", run_name="__main__")
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_two_processes_make_the_steps_of_one(tmp_path):
    (script,) = (b.text for b in blocks(GUIDE / "scale.md") if b.text.startswith("# ddp.py"))
    (tmp_path / "ddp.py").write_text(script)
    record("mpe/simple_spread_v3", tmp_path / "whole.zarr", episodes=40, threads=1, partner=None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    pairs = [("0", "1"), ("0", "2"), ("1", "2")]
    started = json.dumps([{"RANK": rank, "WORLD_SIZE": world} | shared for rank, world in pairs])
    done = subprocess.run(
        [sys.executable, "-c", STARTS, started],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert done.returncode == 0
    one, two = (torch.load(tmp_path / f"student-{n}.pt", weights_only=True) for n in (1, 2))
    begun = torch.nn.Linear(18, 5).state_dict()
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-6, atol=1e-7)
        assert not torch.allclose(values, begun[name])
