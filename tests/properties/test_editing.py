"""Datasets from datasets keep every episode, whatever its length and wherever chunks end."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kd_offline.datasets import (
    Conditions,
    DatasetWriter,
    EpisodeBlock,
    ExpertBuffer,
    diff,
    filter,
    merge,
    split,
    verify,
)
from kd_offline.datasets.edit import rewrite
from kd_offline.datasets.edit.query import episodes_where
from kd_offline.datasets.format import layout
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.properties import examples

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
SPEC = environment_spec((4, 2), (3, 2))
LENGTHS = st.lists(st.integers(1, 9), min_size=2, max_size=12)
FEW = examples(3)  # each writes and reads several datasets


@contextmanager
def workplace(rows, block_bytes):
    """A folder in memory, small chunks, small blocks, and no waiting for disks."""
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as folder,
        patch.object(layout, "MAX_CHUNK_ROWS", rows),
        patch.object(layout, "MIN_CHUNK_ROWS", rows),
        patch.object(rewrite, "BLOCK_BYTES", block_bytes),
        patch("os.fsync"),
    ):
        yield Path(folder)


def write(path, lengths, seed):
    """Record random episodes with distinct seeds and a mask that differs by episode."""
    block = episode_block(SPEC, lengths, seed=seed, hidden=2)
    count = len(lengths)
    seeds = np.arange(count, dtype=np.uint64) + np.uint64(1000 * seed)
    episodes = {**block.episodes, "seed": seeds}
    drawn = (np.random.default_rng(seed).random((count, 2, 4)) < 0.5) & full_mask(SPEC)
    masks = {"full": full_mask(SPEC), "drawn": drawn}
    with DatasetWriter.create(path, header(SPEC, seed=seed, masks=masks)) as writer:
        writer.append(EpisodeBlock(block.steps, block.final, episodes))
        writer.commit(masks)
    return ExpertBuffer.open(path)


def episodes(buffer):
    """Return every episode as bytes, by its seed."""
    names = sorted(set(buffer.names) - {"episodes/offset", "episodes/split", "masks/full"})
    found = {}
    for k, seed in enumerate(buffer.episodes("seed").tolist()):
        arrays = buffer.load(names, np.array([k]))
        found[seed] = b"".join(arrays[name].tobytes() for name in names)
    return found


sizes = {"rows": st.sampled_from([3, 8, 64]), "block_bytes": st.sampled_from([1, 700, 10**6])}


@FEW
@given(lengths=LENGTHS, **sizes)
def test_split_then_merge_holds_the_same_episodes(lengths, rows, block_bytes):
    with workplace(rows, block_bytes) as folder:
        parent = write(folder / "p", lengths, 0)
        split(parent.path, folder / "s", heldout=0.5, stratify="won")
        for part in ("train", "heldout"):
            filter(folder / "s", folder / part, Conditions(split=part))
        merge([folder / "train", folder / "heldout"], folder / "m")
        merged = ExpertBuffer.open(folder / "m")
        assert verify(merged.path).ok
        assert episodes(merged) == episodes(parent)
        report = diff(parent.path, merged.path)
        assert report.episodes.common == len(lengths)
        assert set(report.values) <= {"episodes/split"}


@FEW
@given(lengths=LENGTHS, bound=st.floats(-20, 20), **sizes)
def test_a_condition_and_its_opposite_part_the_dataset(lengths, bound, rows, block_bytes):
    with workplace(rows, block_bytes) as folder:
        parent = write(folder / "p", lengths, 0)
        condition = f"return > {bound!r} or length in [1, 2]"
        chosen = episodes_where(parent, condition)
        found: dict[int, bytes] = {}
        for k, (text, here) in enumerate(((condition, chosen), (f"not ({condition})", ~chosen))):
            assert np.array_equal(episodes_where(parent, text), here)
            if here.any():
                filter(parent.path, folder / str(k), text)
                assert verify(folder / str(k)).ok
                part = episodes(ExpertBuffer.open(folder / str(k)))
                assert not found.keys() & part.keys()
                found |= part
        assert found == episodes(parent)


@FEW
@given(first=LENGTHS, second=LENGTHS, **sizes)
def test_merging_keeps_seeds_and_order(first, second, rows, block_bytes):
    with workplace(rows, block_bytes) as folder:
        parents = [write(folder / "a", first, 1), write(folder / "b", second, 2)]
        ids = {merge([folder / "a", folder / "b"], folder / f"m{k}").id for k in range(2)}
        assert len(ids) == 1
        merged = ExpertBuffer.open(folder / "m0")
        for column in ("seed", "won", "length", "return", "expert_id"):
            want = np.concatenate([parent.episodes(column) for parent in parents])
            assert np.array_equal(merged.episodes(column), want)
        assert episodes(merged) == episodes(parents[0]) | episodes(parents[1])


@FEW
@given(lengths=LENGTHS, **sizes)
def test_a_dataset_does_not_differ_from_itself(lengths, rows, block_bytes):
    with workplace(rows, block_bytes) as folder:
        parent = write(folder / "p", lengths, 0)
        same = filter(parent.path, folder / "s", "length > 0", name="test/random")
        assert same.id == parent.id
        report = diff(parent.path, parent.path)
        assert report.equal
        assert not report.fields
        assert not report.arrays
        assert not report.values
        assert diff(parent.path, folder / "s").equal
