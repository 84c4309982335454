import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import zarr

from kd_offline.datasets.format import layout
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage import store
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import (
    MismatchError,
    StorageError,
    UnfinishedError,
    UsageError,
)
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    full_mask,
    header,
    tiny_dataset,
)
from tests.unit.datasets.writing.conftest import LENGTHS, SPEC, blocks, record


def zarr_keys(group: zarr.Group, name: str) -> list[str]:
    part = group[name]
    assert isinstance(part, zarr.Group)
    return list(part.array_keys())


def abandon(writer: DatasetWriter) -> None:
    """Leave the disk as a killed process would after the blocks that are queued."""
    writer._stop()
    writer._release()


def test_every_array_comes_back(tmp_path, small_chunks):
    manifest = record(tmp_path / "d.zarr")
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    want = [block.flat() for block in blocks()]
    for name in want[0]:
        expected = np.concatenate([part[name] for part in want])
        got = buffer.read(name)
        assert np.array_equal(got, expected), name
        assert got.dtype.name == manifest.arrays[name].dtype
    assert buffer.read("steps/embedding").dtype == np.float16
    assert np.array_equal(buffer.mask("full"), full_mask(SPEC))


def test_plain_zarr_reads_the_same(tmp_path, small_chunks):
    record(tmp_path / "d.zarr")
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    group = zarr.open_group(tmp_path / "d.zarr", mode="r", zarr_format=3)
    stored = {f"{part}/{name}" for part in layout.GROUPS for name in zarr_keys(group, part)}
    assert stored == set(buffer.names)
    for name in buffer.names:
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert np.array_equal(array[:], buffer.read(name)), name
        assert array.metadata.to_dict()["dimension_names"] == buffer.manifest.arrays[name].axes
        assert array.nchunks_initialized == array.nchunks


def test_same_content_has_the_same_id_whatever_the_chunks(tmp_path, monkeypatch):
    first = record(tmp_path / "a.zarr")
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 8)
    monkeypatch.setattr(layout, "MIN_CHUNK_ROWS", 8)
    second = record(tmp_path / "b.zarr")
    assert first.id == second.id
    assert len(second.files) > len(first.files)


def test_other_content_has_another_id(tmp_path):
    ids = {tiny_dataset(tmp_path / f"{seed}.zarr", seed=seed).id for seed in range(3)}
    ids.add(tiny_dataset(tmp_path / "fewer.zarr", without=["steps/value"]).id)
    wider = environment_spec((6, 6, 6), episode_limit=26)
    ids.add(tiny_dataset(tmp_path / "spec.zarr", spec=wider).id)
    assert len(ids) == 5


def test_masks_may_differ_by_episode(tmp_path):
    masks = {"random-k": np.random.default_rng(0).random((4, 3, 6)) < 0.5}
    buffer = tiny_dataset(tmp_path / "d.zarr", masks=masks)
    assert np.array_equal(buffer.mask("random-k"), masks["random-k"])
    assert buffer.manifest.arrays["masks/random-k"].axes == ("E", "N", "O")


@pytest.mark.parametrize("blocks_before", range(len(LENGTHS) + 1))
@pytest.mark.parametrize("journal_seconds", [0.0, 1e9])
def test_killed_recording_continues_to_the_same_id(
    tmp_path, small_chunks, eager_journal, blocks_before, journal_seconds
):
    undisturbed = record(tmp_path / "a.zarr")
    path = tmp_path / "b.zarr"
    writer = DatasetWriter.create(path, header(SPEC), journal_seconds=journal_seconds)
    for block in blocks()[:blocks_before]:
        writer.append(block)
    abandon(writer)
    with pytest.raises(UnfinishedError, match=r"resume=True"):
        ExpertBuffer.open(path)
    continued = record(path, resume=True)
    assert continued.id == undisturbed.id
    assert continued.files == undisturbed.files
    assert continued.statistics == undisturbed.statistics
    assert sorted(p.name for p in path.iterdir()) == sorted(
        p.name for p in (tmp_path / "a.zarr").iterdir()
    )


def test_leaving_the_block_keeps_everything_appended(tmp_path):
    def interrupted() -> None:
        with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC), journal_seconds=1e9) as writer:
            for block in blocks()[:2]:
                writer.append(block)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC), resume=True) as writer:
        assert writer.episodes_done == len(LENGTHS[0]) + len(LENGTHS[1])
        assert writer.steps_done == sum(LENGTHS[0]) + sum(LENGTHS[1])


@pytest.mark.parametrize("survivors", range(0, 140, 9))
def test_full_disk_at_any_write_loses_nothing_committed(
    tmp_path, small_chunks, eager_journal, monkeypatch, survivors
):
    undisturbed = record(tmp_path / "a.zarr")
    path, left = tmp_path / "b.zarr", [survivors]
    real = store._write_aside

    def put(target, data, durable):
        left[0] -= 1
        if left[0] < 0:
            target.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(target, data, durable)

    with monkeypatch.context() as patched:
        patched.setattr(store, "_write_aside", put)
        with pytest.raises(StorageError, match=r"No space left on device.*resume=True"):
            record(path)
    assert record(path, resume=True).id == undisturbed.id


def test_continuing_with_other_settings_is_refused(tmp_path):
    path = tmp_path / "d.zarr"
    DatasetWriter.create(path, header(SPEC)).close()
    with pytest.raises(MismatchError, match=r"recording\.seed"):
        DatasetWriter.create(path, header(SPEC, seed=1), resume=True)


def test_nothing_recorded(tmp_path):
    with (
        DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer,
        pytest.raises(UsageError, match="nothing was recorded"),
    ):
        writer.commit()


def test_a_closed_writer_takes_nothing(tmp_path):
    writer = DatasetWriter.create(tmp_path / "d.zarr", header(SPEC))
    writer.close()
    with pytest.raises(UsageError, match="was closed"):
        writer.append(blocks()[0])


def test_wrong_mask(tmp_path):
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer:
        writer.append(episode_block(SPEC, [2, 3]))
        with pytest.raises(UsageError, match=r"mask 'odd' is bool \[2, 5\]"):
            writer.commit({"odd": np.ones((2, 5), bool)})


RECORD_FOR_EVER = """
import sys
from kd_offline.datasets import DatasetWriter
from kd_offline.datasets.writing import dataset_files
from kd_offline.testing.factories import environment_spec, episode_block, header
dataset_files._JOURNAL_SHARE = 0
spec = environment_spec((6, 3), (5, 2))
with DatasetWriter.create(
    sys.argv[1], header(spec), journal_seconds=0.0, resume="resume" in sys.argv
) as writer:
    index = writer.episodes_done // 3
    print(writer.episodes_done, flush=True)
    while True:
        writer.append(episode_block(spec, [25, 7, 1], seed=index))
        index += 1
        print(index, flush=True)
"""


def test_sigkill_in_the_middle(tmp_path):
    path, done = tmp_path / "d.zarr", [0]
    for appended in (2, 9, 16):
        command = [sys.executable, "-c", RECORD_FOR_EVER, str(path), "resume"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            done.append(int(process.stdout.readline()))
            for _ in range(appended):
                assert process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    assert done == sorted(done)
    with DatasetWriter.create(path, header(SPEC), resume=True) as writer:
        count = writer.episodes_done
        assert count >= max(done)
        assert count > 0
        writer.commit()
    straight = tmp_path / "straight.zarr"
    with DatasetWriter.create(straight, header(SPEC)) as writer:
        for index in range(count // 3):
            writer.append(episode_block(SPEC, [25, 7, 1], seed=index))
        writer.commit()
    assert ExpertBuffer.open(path).id == ExpertBuffer.open(straight).id


def test_splits_may_be_given(tmp_path):
    names = {"train": 0, "heldout": 1, "test": 2}
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer:
        writer.append(episode_block(SPEC, [3, 2, 4]))
        for codes in ([0, 1], [0, 1, 3]):
            with pytest.raises(UsageError, match="one named code for each of the 3 episodes"):
                writer.commit(splits=Splits(np.array(codes, np.uint8), names))
        manifest = writer.commit(splits=Splits(np.array([2, 0, 2], np.uint8), names))
    assert {name: split.steps for name, split in manifest.splits.items()} == {
        "train": 2,
        "heldout": 0,
        "test": 7,
    }
    assert ExpertBuffer.open(tmp_path / "d.zarr").split("test").tolist() == [0, 2]
