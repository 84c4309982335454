"""A recording of a few blocks, whole or continued."""

from pathlib import Path

from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header

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
