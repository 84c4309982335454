"""A recording whose batches are played in workers is the one of one process, also when they die."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from kd_offline import user_code
from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.errors import MismatchError, StorageError, UsageError, WorkerError
from kd_offline.execution import lending, processes
from kd_offline.execution.base import Serial
from kd_offline.recording import divided, setup
from kd_offline.recording.record import record
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.testing.factories import environment_spec, episode_block
from kd_offline.tracking.base import FunctionObserver
from tests.unit.execution.test_executors import is_there, wait_until

SPREAD = "mpe/simple_spread_v3"
SMALL = {"episodes": 33, "batch": 5, "threads": 1, "partner": None}
FAULTY = "tests.unit.recording.faulty"
UNIFORM = "python:tests.unit.recording.test_divided:uniform"


def uniform(spec):
    """Return an expert that knows nothing, for environments without a bundled one."""
    return RandomPolicy()


def killed_once(spec):
    """Return the same expert; the first process that loads it elsewhere ends at once."""
    parent, note = os.environ["TEST_PARENT"], Path(os.environ["TEST_NOTE"])
    if str(os.getpid()) != parent and not note.exists():
        note.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return RandomPolicy()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the recording of one process."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    record(SPREAD, path, **SMALL)
    return ExpertBuffer.open(path)


def test_processes_make_the_recording_of_one_also_when_one_is_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_PARENT", str(os.getpid()))
    monkeypatch.setenv("TEST_NOTE", str(tmp_path / "note"))
    given = SMALL | {"expert": "python:tests.unit.recording.test_divided:killed_once"}
    path, alone = tmp_path / "d.zarr", tmp_path / "one.zarr"
    made = record(SPREAD, path, on="processes:2", **given)
    assert (tmp_path / "note").exists()
    one = record(SPREAD, alone, **given)
    assert made.id == one.id
    assert made.lineage == one.lineage == ()
    assert made.files == one.files
    assert sorted(file.name for file in path.iterdir()) == sorted(
        file.name for file in alone.iterdir()
    )
    assert verify(path).ok
    assert record(SPREAD, path, on="serial", resume=True, **given).id == one.id
    with pytest.raises(StorageError, match="there is a finished dataset"):
        record(SPREAD, path, on="serial", **given)


@pytest.mark.parametrize(
    "settings",
    [
        {"threads": 2},
        {"shard": "2/3"},
        {"noise_mixture": None, "masks": ("random-k", "full")},
        {"environment_kwargs": {"episode_limit": 6}},
    ],
    ids=str,
)
def test_threads_shards_masks_and_lengths(settings, tmp_path):
    given = SMALL | {"expert": UNIFORM, "episodes": 17} | settings
    if "environment_kwargs" in settings:
        one = record("grid/predator_prey", tmp_path / "one.zarr", **given)
        many = record("grid/predator_prey", tmp_path / "many.zarr", on="threads:2", **given)
    else:
        one = record(SPREAD, tmp_path / "one.zarr", **given)
        many = record(SPREAD, tmp_path / "many.zarr", on="threads:2", **given)
    assert many.id == one.id


class _Ends(Serial):
    """Runs tasks as ``Serial`` does, and ends after some."""

    def map(self, task, items):
        for number, item in enumerate(items):
            if number == 3:
                raise WorkerError("all workers ended: repeat the command")
            yield task(item)


def test_what_was_played_before_an_interruption_is_kept_and_any_process_continues(
    whole, tmp_path, monkeypatch
):
    path = tmp_path / "d.zarr"
    for following in (None, "serial"):
        with monkeypatch.context() as patched:
            patched.setattr("kd_offline.recording.record.executor_on", lambda *_, **__: _Ends())
            with pytest.raises(WorkerError, match="all workers ended"):
                record(SPREAD, path, on="serial", overwrite=following is not None, **SMALL)
        (path / "recording.blocks").mkdir(exist_ok=True)
        (path / "recording.blocks" / "0123").write_text("of a worker that was killed")
        with pytest.raises(StorageError, match=r"unfinished recording at .*resume=True"):
            record(SPREAD, path, on=following, **SMALL)
        done: list[int] = []
        observer = FunctionObserver(progress=lambda episodes, *_, done=done: done.append(episodes))
        made = record(SPREAD, path, resume=True, on=following, observers=[observer], **SMALL)
        assert done[0] == 15
        assert made.id == whole.id
        assert [file.name for file in path.iterdir() if "recording" in file.name] == []


def test_an_altered_batch_is_refused_and_what_was_before_it_continued(whole, tmp_path, monkeypatch):
    path, stored, batches = tmp_path / "d.zarr", divided._stored, []

    def altered(block, folder):
        batch = stored(block, folder)
        batches.append(batch)
        if len(batches) == 3:
            data = bytearray(Path(batch.path).read_bytes())
            data[100] ^= 1
            Path(batch.path).write_bytes(data)
        return batch

    with monkeypatch.context() as patched:
        patched.setattr(divided, "_stored", altered)
        with pytest.raises(StorageError, match=r"altered after a worker wrote it.*resume=True"):
            record(SPREAD, path, on="serial", **SMALL)
    assert record(SPREAD, path, on="serial", resume=True, **SMALL).id == whole.id


@pytest.mark.parametrize("kind", ["link", "gone", "longer"])
def test_a_batch_that_is_no_plain_file_of_its_size_is_refused(kind, tmp_path, monkeypatch):
    stored = divided._stored

    def replaced(block, folder):
        batch = stored(block, folder)
        path = Path(batch.path)
        if kind == "longer":
            path.write_bytes(path.read_bytes() + b"0")
        else:
            path.rename(tmp_path / "elsewhere")
        if kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        return batch

    monkeypatch.setattr(divided, "_stored", replaced)
    with pytest.raises(StorageError, match=r"recording\.blocks"):
        record(SPREAD, tmp_path / "d.zarr", on="serial", **SMALL)
    assert (tmp_path / "elsewhere").exists() == (kind != "longer")


@pytest.mark.parametrize(
    "seen", [{"expert": ("bundled:mlp",)}, {"partner": "bundled"}, {"batch": 4}], ids=str
)
def test_a_worker_that_sees_another_expert_or_partner_is_refused(seen, tmp_path, monkeypatch):
    load = divided._loaded

    def other(task):
        recipe = task.recipe.model_copy(update=seen)
        return load(divided._Task(task.command, recipe, task.header, task.folder))

    monkeypatch.setattr(divided, "_loaded", other)
    with pytest.raises(MismatchError, match="loaded another expert, partner or environment"):
        record(SPREAD, tmp_path / "d.zarr", on="serial", **SMALL)


def test_facts_of_other_machines_are_stated_as_far_as_all_agree(tmp_path, monkeypatch):
    load = divided._loaded

    @contextmanager
    def elsewhere(task):
        with load(task) as (setup, recording):
            machine = recording.machine | {"processor": "another one"}
            yield setup, recording.model_copy(update={"machine": machine})

    monkeypatch.setattr(divided, "_loaded", elsewhere)
    made = record(SPREAD, tmp_path / "d.zarr", on="serial", **SMALL)
    assert "processor" not in made.recording.machine
    assert "system" in made.recording.machine


def test_environments_are_closed_where_tasks_ran_in_this_process(tmp_path, monkeypatch):
    closed: list[None] = []
    close = user_code.close_all
    monkeypatch.setattr(setup, "close_all", lambda environments: closed.append(close(environments)))
    record(SPREAD, tmp_path / "d.zarr", on="serial", **SMALL)
    assert len(closed) == 2  # of the command, and of its tasks
    assert not lending._PROCESS.idle.loaded


def test_environments_are_closed_in_workers_that_end(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    given = {"expert": f"python:{FAULTY}:expert", "environment_kwargs": {"note": str(notes)}}
    name = f"pettingzoo/{FAULTY}:noting_env"
    record(name, tmp_path / "d.zarr", on="processes:1", **SMALL | {"episodes": 5} | given)
    written = [file.read_text().split() for file in notes.iterdir()]
    assert len(written) == 2  # by this process and the worker
    assert all(words.count("made") == words.count("closed") > 1 for words in written)


def test_processes_and_threads_that_an_environment_leaves_do_not_outlive_the_recording(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "_PATIENCE_S", 0.1)
    notes = tmp_path / "notes"
    notes.mkdir()
    settings = {"note": str(notes), "parent": os.getpid()}
    given = {"expert": f"python:{FAULTY}:expert", "environment_kwargs": settings, "episodes": 5}
    name = f"pettingzoo/{FAULTY}:helped_env"
    record(name, tmp_path / "d.zarr", on="processes:1", **SMALL | given)
    helpers = [int(file.name) for file in notes.iterdir()]
    assert helpers
    wait_until(lambda: not any(is_there(helper) for helper in helpers))


def test_a_place_that_there_is_not_is_refused_before_anything_begins(tmp_path):
    with pytest.raises(UsageError, match="'processes:many' is no place"):
        record(SPREAD, tmp_path / "d.zarr", on="processes:many", **SMALL)
    with pytest.raises(UsageError, match="exclude each other"):
        record(SPREAD, tmp_path / "d.zarr", on="serial", resume=True, overwrite=True, **SMALL)
    assert not list(tmp_path.iterdir())


def test_arrays_of_every_width_come_back_from_the_file_of_a_batch(tmp_path):
    block = episode_block(environment_spec((3, 5)), [3, 1, 2], seed=1)
    back = divided._read_back(divided._stored(block, str(tmp_path)))
    assert not list(tmp_path.iterdir())
    for name, values in block.flat().items():
        np.testing.assert_array_equal(back.flat()[name], values)
        assert back.flat()[name].dtype == values.dtype
        assert back.flat()[name].flags.aligned
