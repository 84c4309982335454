"""One array on its way to chunk files."""

from pathlib import Path

import numpy as np
import pytest

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import (
    CorruptDatasetError,
    UsageError,
)
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    header,
)

SPEC = environment_spec((6, 3), (5, 2))


LENGTHS = ([3, 25, 1], [7, 7], [20, 2, 9, 4], [25])


def blocks() -> list[EpisodeBlock]:
    return [episode_block(SPEC, lengths, seed=i) for i, lengths in enumerate(LENGTHS)]


def write(path: Path, *parts: EpisodeBlock) -> None:
    """Record the given blocks."""
    with DatasetWriter.create(path, header(SPEC)) as writer:
        for part in parts:
            writer.append(part)
        writer.commit()


def test_wide_embedding_on_request(tmp_path):
    block = episode_block(SPEC, [4], embedding_dtype="float32")
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer:
        writer.append(block)
        assert writer.commit().arrays["steps/embedding"].dtype == "float32"
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    assert np.array_equal(buffer.read("steps/embedding"), block.steps["embedding"])


def test_continuing_a_damaged_recording_is_refused(tmp_path, small_chunks):
    path = tmp_path / "d.zarr"
    with DatasetWriter.create(path, header(SPEC)) as writer:
        writer.append(blocks()[0])
    chunk = path / "steps/logits/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(CorruptDatasetError, match=r"chunk 0 of steps/logits"):
        DatasetWriter.create(path, header(SPEC), resume=True)


def test_integers_that_do_not_fit_are_refused(tmp_path):
    block = episode_block(SPEC, [2, 3])
    actions = block.steps["actions"].astype(np.int64) + 70_000
    wrong = EpisodeBlock({**block.steps, "actions": actions}, block.final, block.episodes)
    with pytest.raises(UsageError, match="steps/actions has values that do not fit int16"):
        write(tmp_path / "d.zarr", wrong)
