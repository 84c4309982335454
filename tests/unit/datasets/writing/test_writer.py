import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from kd_offline.datasets.format import layout
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage import safe_open, store
from kd_offline.datasets.validation.integrity import verify
from kd_offline.datasets.writing import destination
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import (
    CorruptDatasetError,
    MismatchError,
    StorageError,
    UnfinishedError,
    UsageError,
)
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.sealed_json import seal
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    full_mask,
    header,
    tiny_dataset,
)

SPEC = environment_spec((6, 3), (5, 2))
LENGTHS = ([3, 25, 1], [7, 7], [20, 2, 9, 4], [25])


def blocks() -> list[EpisodeBlock]:
    return [episode_block(SPEC, lengths, seed=i) for i, lengths in enumerate(LENGTHS)]


def record(path: Path, **options: bool) -> DatasetManifest:
    """Record all blocks, or those that are still to come, and return the manifest."""
    with DatasetWriter.create(path, header(SPEC), journal_seconds=0.0, **options) as writer:
        done = writer.episodes_done
        for block in blocks():
            if done >= len(block.lengths):
                done -= len(block.lengths)
                continue
            assert done == 0, "a recording continues at the beginning of a block"
            writer.append(block)
        return writer.commit({"full": full_mask(SPEC)})


def write(path: Path, *parts: EpisodeBlock) -> None:
    """Record the given blocks."""
    with DatasetWriter.create(path, header(SPEC)) as writer:
        for part in parts:
            writer.append(part)
        writer.commit()


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


def test_derived_columns(tmp_path, small_chunks):
    record(tmp_path / "d.zarr")
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    lengths = np.concatenate(LENGTHS)
    assert np.array_equal(buffer.episodes("length"), lengths)
    assert np.array_equal(buffer.episodes("offset"), np.cumsum(lengths) - lengths)
    reward = np.split(buffer.read("steps/reward").astype(float), np.cumsum(lengths)[:-1])
    sums = np.array([part.sum(axis=0) for part in reward])
    np.testing.assert_allclose(buffer.episodes("agent_return"), sums, rtol=1e-12)
    np.testing.assert_allclose(buffer.episodes("return"), sums.sum(axis=1), rtol=1e-12)


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


def test_wide_embedding_on_request(tmp_path):
    block = episode_block(SPEC, [4], embedding_dtype="float32")
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer:
        writer.append(block)
        assert writer.commit().arrays["steps/embedding"].dtype == "float32"
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    assert np.array_equal(buffer.read("steps/embedding"), block.steps["embedding"])


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
    with pytest.raises(UnfinishedError, match="--resume"):
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
    real = store._put

    def put(target, data, durable):
        left[0] -= 1
        if left[0] < 0:
            target.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(target, data, durable)

    with monkeypatch.context() as patched:
        patched.setattr(store, "_put", put)
        with pytest.raises(StorageError, match=r"No space left on device.*--resume"):
            record(path)
    assert record(path, resume=True).id == undisturbed.id


def test_existing_datasets_are_not_touched(tmp_path):
    path = tmp_path / "d.zarr"
    first = record(path)
    with pytest.raises(StorageError, match=r"finished dataset .* --overwrite"):
        record(path)
    with pytest.raises(StorageError, match=r"finished dataset"):
        record(path, resume=True)
    assert ExpertBuffer.open(path).id == first.id
    assert record(path, overwrite=True).id == first.id


def test_unfinished_recordings_are_not_touched(tmp_path):
    path = tmp_path / "d.zarr"
    DatasetWriter.create(path, header(SPEC)).close()
    with pytest.raises(StorageError, match=r"--resume or delete it with --overwrite"):
        record(path)
    record(path, overwrite=True)


def test_foreign_folders_are_never_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(StorageError, match="not empty and holds no dataset"):
            record(tmp_path, **options)
    assert (tmp_path / "thesis.tex").exists()


def test_path_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file"):
        record(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot make the folder"):
        record(tmp_path / "file" / "d.zarr")


@pytest.mark.parametrize(
    "claim", [{"step_chunk_rows": 10**12}, {"episode_chunk_rows": 10**12}], ids=str
)
def test_a_journal_that_claims_huge_chunks_is_refused(claim, tmp_path, eager_journal):
    path = tmp_path / "d.zarr"
    writer = DatasetWriter.create(path, header(SPEC), journal_seconds=0.0)
    for block in blocks()[:2]:
        writer.append(block)
    abandon(writer)
    journal = json.loads((path / layout.JOURNAL).read_bytes())
    journal.pop("manifest_digest")
    (path / layout.JOURNAL).write_bytes(seal(journal | claim))
    with pytest.raises(CorruptDatasetError, match=r"claims chunks of [0-9,]+ bytes for"):
        DatasetWriter.create(path, header(SPEC), resume=True)


def test_two_writers_on_one_dataset(tmp_path):
    path = tmp_path / "d.zarr"
    with (
        DatasetWriter.create(path, header(SPEC)),
        pytest.raises(StorageError, match="another process is recording"),
    ):
        DatasetWriter.create(path, header(SPEC), resume=True)


def test_a_writer_that_finishes_while_another_one_looks(tmp_path, monkeypatch):
    """The second one saw an unfinished recording, and gets the lock once it is a dataset."""
    path, real = tmp_path / "d.zarr", store.lock
    DatasetWriter.create(path, header(SPEC)).close()

    def late(root):
        with monkeypatch.context() as patched:
            patched.setattr(destination, "lock", real)
            record(path, resume=True)
        return real(root)

    monkeypatch.setattr(destination, "lock", late)
    with pytest.raises(StorageError, match="finished dataset"):
        DatasetWriter.create(path, header(SPEC), resume=True)
    assert verify(path).ok
    assert not (path / "recording.json").exists()


def test_a_lock_that_was_deleted_is_none(tmp_path, monkeypatch):
    held = store.lock(tmp_path)
    opened = safe_open.held

    def finishes_meanwhile(path):
        handle = opened(path)
        (tmp_path / "recording.lock").unlink()
        held.close()
        return handle

    monkeypatch.setattr(safe_open, "held", finishes_meanwhile)
    with pytest.raises(StorageError, match="another process is recording"):
        store.lock(tmp_path)


@pytest.mark.parametrize("finished", [True, False])
def test_killed_while_overwriting(tmp_path, monkeypatch, finished):
    path = tmp_path / "d.zarr"
    with DatasetWriter.create(path, header(SPEC)) as writer:
        writer.append(blocks()[0])
        if finished:
            writer.commit()

    def killed(folder, **options):
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(SystemExit):
            record(path, overwrite=True)
    with pytest.raises(UnfinishedError, match="--resume"):
        ExpertBuffer.open(path)
    if finished:
        with pytest.raises(CorruptDatasetError, match="record again with --overwrite"):
            record(path, resume=True)
    assert record(path, overwrite=True).id == record(tmp_path / "whole.zarr").id


def test_continuing_with_other_settings_is_refused(tmp_path):
    path = tmp_path / "d.zarr"
    DatasetWriter.create(path, header(SPEC)).close()
    with pytest.raises(MismatchError, match=r"recording\.seed"):
        DatasetWriter.create(path, header(SPEC, seed=1), resume=True)


def test_continuing_a_damaged_recording_is_refused(tmp_path, small_chunks):
    path = tmp_path / "d.zarr"
    with DatasetWriter.create(path, header(SPEC)) as writer:
        writer.append(blocks()[0])
    chunk = path / "steps/logits/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(CorruptDatasetError, match=r"chunk 0 of steps/logits"):
        DatasetWriter.create(path, header(SPEC), resume=True)


def test_nothing_recorded(tmp_path):
    with (
        DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer,
        pytest.raises(UsageError, match="nothing was recorded"),
    ):
        writer.commit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda steps: steps.pop("reward"), "missing: steps/reward"),
        (lambda steps: steps.update(logit=steps["logits"]), "did you mean"),
        (lambda steps: steps.update(obs=steps["obs"][:-1]), r"steps/obs has shape \[4, 2, 6\]"),
        (lambda steps: steps.update(obs=steps["obs"][:, :, :3]), r"\[R=5, N=2, O=6\]"),
        (lambda steps: steps.update(actions=steps["actions"] * 1.0), "dtype float64"),
        (lambda steps: steps.update(alive=steps["alive"] * 1), "dtype int64, but bool"),
        (lambda steps: steps.update(embedding=steps["embedding"][..., :0]), "any width"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_at_once(tmp_path, change, message):
    block = episode_block(SPEC, [2, 3])
    steps = dict(block.steps)
    change(steps)
    with (
        DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer,
        pytest.raises(UsageError, match=message),
    ):
        writer.append(EpisodeBlock(steps, block.final, block.episodes))


@pytest.mark.parametrize(
    ("name", "value"),
    [("logits", np.nan), ("reward", np.inf), ("embedding", -np.inf), ("embedding", 7e4)],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path, name, value):
    block = episode_block(SPEC, [2, 3], embedding_dtype="float64")
    block.steps[name][4, 1] = value
    before = episode_block(SPEC, [4], embedding_dtype="float64")
    with pytest.raises(UsageError, match=rf"steps/{name} of agent 'agent_1' has in step 2 of epis"):
        write(tmp_path / "d.zarr", before, block)
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC), resume=True) as writer:
        assert writer.episodes_done == 1  # what came before is kept


def test_integers_that_do_not_fit_are_refused(tmp_path):
    block = episode_block(SPEC, [2, 3])
    actions = block.steps["actions"].astype(np.int64) + 70_000
    wrong = EpisodeBlock({**block.steps, "actions": actions}, block.final, block.episodes)
    with pytest.raises(UsageError, match="steps/actions has values that do not fit int16"):
        write(tmp_path / "d.zarr", wrong)


def test_later_blocks_must_hold_the_same_arrays(tmp_path):
    parts = [episode_block(SPEC, [2, 3], without=names) for names in ([], ["steps/value"])]
    with pytest.raises(UsageError, match="these differ: steps/value"):
        write(tmp_path / "d.zarr", *parts)


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
"""


def test_sigkill_in_the_middle(tmp_path):
    path, done = tmp_path / "d.zarr", [0]
    for wait in (0.1, 0.35, 0.6):
        command = [sys.executable, "-c", RECORD_FOR_EVER, str(path), "resume"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            done.append(int(process.stdout.readline()))
            time.sleep(wait)
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
