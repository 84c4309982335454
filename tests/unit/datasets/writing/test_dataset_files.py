"""What the writer derives, and what it refuses to continue."""

import json
from pathlib import Path

import numpy as np
import pytest

from kd_offline.datasets.format import layout
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import (
    CorruptDatasetError,
    UsageError,
)
from kd_offline.sealed_json import seal
from kd_offline.testing.factories import (
    episode_block,
    header,
)
from tests.unit.datasets.writing.conftest import LENGTHS, SPEC, blocks, record


def write(path: Path, *parts: EpisodeBlock) -> None:
    """Record the given blocks."""
    with DatasetWriter.create(path, header(SPEC)) as writer:
        for part in parts:
            writer.append(part)
        writer.commit()


def abandon(writer: DatasetWriter) -> None:
    """Leave the disk as a killed process would after the blocks that are queued."""
    writer._stop()
    writer._release()


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


def test_later_blocks_must_hold_the_same_arrays(tmp_path):
    parts = [episode_block(SPEC, [2, 3], without=names) for names in ([], ["steps/value"])]
    with pytest.raises(UsageError, match="these differ: steps/value"):
        write(tmp_path / "d.zarr", *parts)
