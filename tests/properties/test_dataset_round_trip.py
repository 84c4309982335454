"""Any valid episodes survive the disk, in any blocks and chunks, with one id."""

import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kd_offline.datasets.format import layout
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.validation.integrity import verify
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.properties import examples

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
OPTIONAL = ["steps/value", "steps/embedding", "steps/behaviour_logprob", "final/alive"]


@st.composite
def recordings(draw):
    agents = draw(st.integers(1, 4))
    widths = draw(st.lists(st.integers(1, 7), min_size=agents, max_size=agents))
    counts = draw(st.lists(st.integers(1, 6), min_size=agents, max_size=agents))
    spec = environment_spec(
        widths, counts, episode_limit=40, state_width=draw(st.sampled_from([0, 5]))
    )
    part = st.lists(st.integers(1, 12), min_size=1, max_size=4)
    lengths = draw(st.lists(part, min_size=1, max_size=3))
    options = {
        "hidden": draw(st.integers(1, 9)),
        "embedding_dtype": draw(st.sampled_from(["float16", "float32"])),
        "without": draw(st.lists(st.sampled_from(OPTIONAL), unique=True)),
    }
    return spec, [episode_block(spec, part, seed=i, **options) for i, part in enumerate(lengths)]


def record(path: Path, spec, blocks: list[EpisodeBlock], rows: int) -> ExpertBuffer:
    with (
        patch.object(layout, "MAX_CHUNK_ROWS", rows),
        patch.object(layout, "MIN_CHUNK_ROWS", rows),
        patch("os.fsync"),
        DatasetWriter.create(path, header(spec)) as writer,
    ):
        for block in blocks:
            writer.append(block)
        writer.commit({"full": full_mask(spec)})
    return ExpertBuffer.open(path)


def joined(blocks: list[EpisodeBlock]) -> EpisodeBlock:
    def join(group: str):
        parts = [getattr(block, group) for block in blocks]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return EpisodeBlock(join("steps"), join("final"), join("episodes"))


@examples(5)
@given(recordings(), st.sampled_from([3, 16, 8192]), st.sampled_from([8, 256]))
def test_round_trip(recording, rows, other_rows):
    spec, blocks = recording
    whole = joined(blocks)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        buffer = record(Path(folder) / "a", spec, blocks, rows)
        for name, values in whole.flat().items():
            got = buffer.read(name)
            assert np.array_equal(got, values)
            assert got.dtype.name in layout.rule_for(name).dtypes
        assert verify(buffer.path).ok
        assert record(Path(folder) / "b", spec, [whole], other_rows).id == buffer.id
