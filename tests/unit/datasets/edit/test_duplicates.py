"""Episodes that are there twice."""

import numpy as np
import pytest

from kd_offline.datasets import (
    DatasetWriter,
    EpisodeBlock,
    ExpertBuffer,
    filter,
    merge,
)
from kd_offline.errors import MismatchError
from kd_offline.testing.factories import (
    episode_block,
    full_mask,
    header,
)


def recorded(path, spec, *, masks=None, changes=None, expert=None, block=None, seed=2):
    """Record two episodes of which other things are said."""
    head = header(spec, seed=seed)
    if expert is not None:
        head = head.model_copy(update={"experts": (head.experts[0].model_copy(update=expert),)})
    head = head.model_copy(update=changes or {})
    with DatasetWriter.create(path, head) as writer:
        writer.append(block or episode_block(spec, [3, 4], seed=seed))
        writer.commit({"full": full_mask(spec)} if masks is None else masks)
    return ExpertBuffer.open(path)


@pytest.mark.parametrize("how", ["refuse", "drop", "keep"])
def test_duplicates(parent, tmp_path, how):
    filter(parent.path, tmp_path / "some.zarr", "episode in [3, 7, 39]")
    paths = [parent.path, tmp_path / "some.zarr"]
    if how == "refuse":
        with pytest.raises(MismatchError, match="3 episodes are there twice, such as episode 0 of"):
            merge(paths, tmp_path / "m.zarr")
        return
    manifest = merge(paths, tmp_path / "m.zarr", duplicates=how)
    assert manifest.statistics.episodes == (40 if how == "drop" else 43)
    assert manifest.lineage[-1].arguments["duplicates"] == how
    if how == "drop":
        assert manifest.id == parent.id
        assert manifest.lineage[-1].arguments["dropped_episodes"] == 3


def test_duplicates_without_seeds(parent, tmp_path):
    block = episode_block(parent.spec, [3, 4], seed=2)
    bare = {k: v for k, v in block.episodes.items() if k != "seed"}
    recorded(tmp_path / "a.zarr", parent.spec, block=EpisodeBlock(block.steps, block.final, bare))
    obs = block.steps["obs"].copy()
    obs[0, 0, 0] += 1  # in the first episode: the second is still the same
    steps = {**block.steps, "obs": obs}
    recorded(tmp_path / "b.zarr", parent.spec, block=EpisodeBlock(steps, block.final, bare))
    with pytest.raises(MismatchError, match="1 episodes are there twice, such as episode 1"):
        merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")


def test_the_same_seed_with_other_noise_is_no_duplicate(parent, tmp_path):
    block = episode_block(parent.spec, [3, 4], seed=2)
    levels = {**block.episodes, "noise_level": np.full(2, 0.5, np.float32)}
    recorded(tmp_path / "a.zarr", parent.spec, block=block)
    recorded(tmp_path / "b.zarr", parent.spec, block=EpisodeBlock(block.steps, block.final, levels))
    assert merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")


def test_seeds_are_compared_in_full(parent, tmp_path):
    """As float64 these two would be one number."""
    for name, seed in (("a", 2**62), ("b", 2**62 + 1)):
        block = episode_block(parent.spec, [3], seed=2)
        block.episodes["seed"][:] = seed
        recorded(tmp_path / f"{name}.zarr", parent.spec, block=block)
    assert merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")
