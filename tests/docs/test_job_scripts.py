"""The job scripts of a page do what it says; Slurm itself is replaced by its variables."""

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.recording.record import record
from tests.docs.pages import GUIDE, blocks, lines, type_command

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
