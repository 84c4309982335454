"""Blocks of episodes are checked before anything of them is written."""

from pathlib import Path

import numpy as np
import pytest

from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import (
    UsageError,
)
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    header,
)

SPEC = environment_spec((6, 3), (5, 2))


def write(path: Path, *parts: EpisodeBlock) -> None:
    """Record the given blocks."""
    with DatasetWriter.create(path, header(SPEC)) as writer:
        for part in parts:
            writer.append(part)
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


def test_full_observations_need_their_description_and_the_other_way_round(tmp_path):
    sighted = environment_spec((6, 3), (5, 2), full_widths=(8, 4))
    for spec, given, message in (
        (SPEC, sighted, "steps/obs_full is there, but the environment does not describe"),
        (sighted, SPEC, "describes full observations, but the block has no steps/obs_full"),
    ):
        path = tmp_path / f"{len(message)}.zarr"
        with (
            DatasetWriter.create(path, header(spec)) as writer,
            pytest.raises(UsageError, match=message),
        ):
            writer.append(episode_block(given, [2, 3]))
