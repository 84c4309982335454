"""Seeds that learn from episodes of their own, by every method, family and way to train."""

from dataclasses import replace

import numpy as np
import pytest

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation import distill as module
from kd_offline.distillation.distill import distill
from kd_offline.distillation.methods import METHODS
from kd_offline.distillation.own_episodes import SHARE, own_episodes
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.rerun import rerun
from kd_offline.distillation.targets import TargetStore
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from kd_offline.tracking.base import FunctionObserver

SPEC = environment_spec((4, 4))
BATCH = 5
SETTINGS = {"optimisation.epochs": 1, "optimisation.batch_episodes": BATCH, "threads": 1}
TOGETHER = {"batched_seeds": True}
WAYS = {
    **{method: (method, {}) for method in METHODS},
    "at once": ("kd-marl", TOGETHER),
    "at once, no memory": ("kl", TOGETHER | {"student.family": "mlp"}),
    "several experts, at once": ("multi-teacher", TOGETHER),
    "sparse": ("kl", {"student.family": "mlp", "sparsity.target": 0.5}),
    "rounded": ("kl", {"optimisation.quantise_from": 0.0}),
    "drawn masks": ("kl", {"mask": "random-k"}),
    "all masks": ("kl", {"mask": "full"}),
}
LENGTHS = [1 + 3 * k % 8 for k in range(24)]


@pytest.fixture(scope="module")
def buffer(tmp_path_factory):
    """Episodes of two experts that play in turn, with all that any method reads."""
    path = tmp_path_factory.mktemp("diverse") / "d.zarr"
    block, rows, rng = episode_block(SPEC, LENGTHS), sum(LENGTHS), np.random.default_rng(0)
    q = rng.normal(0, 1, (rows, 2, 5)).astype(np.float32)
    steps = {
        **block.steps,
        "q_values": q,
        "q_tot": q.sum((1, 2)),
        "mixer_credit": np.ones((rows, 2), np.float32),
        "embedding_s_hat": rng.normal(0, 1, (rows, 2, 3)).astype(np.float16),
        "embedding_feature": rng.normal(0, 1, (rows, 2, 3)).astype(np.float16),
        "embedding_z": rng.normal(0, 1, (rows, 2, 3)).astype(np.float16),
    }
    # A critic that is right about every return, so that the policy term can use it.
    team = block.steps["reward"].mean(1)
    ends = np.cumsum(LENGTHS)
    worth = np.concatenate([np.cumsum(p[::-1])[::-1] for p in np.split(team, ends[:-1])])
    steps["value"] = np.repeat(worth[:, None], 2, 1).astype(np.float32)
    episodes = {**block.episodes, "expert_id": np.arange(len(LENGTHS), dtype=np.int16) % 2}
    (expert,) = header(SPEC).experts
    other = expert.model_copy(update={"id": 1, "digest": "sha256:" + "1" * 64})
    hidden = full_mask(SPEC).copy()
    hidden[:, -1] = False
    drawn = full_mask(SPEC) & (rng.random((len(LENGTHS), 2, SPEC.obs_width)) < 0.5)
    masks = {"full": full_mask(SPEC), "some": hidden, "random-k": drawn}
    top = header(SPEC, masks=masks).model_copy(update={"experts": (expert, other)})
    with DatasetWriter.create(path, top) as writer:
        writer.append(replace(block, steps=steps, episodes=episodes))
        writer.commit(masks)
    return ExpertBuffer.open(path)


def recipe(method="kl", **settings):
    given = {"mask": "some"} | SETTINGS | settings
    # One seed where seeds are trained one after the other: what another is does not matter.
    seeds = (0, 1) if settings.get("batched_seeds") else (1,)
    return distill_recipe(method=method, seeds=seeds, diverse=True, settings=given)


@pytest.mark.parametrize("way", WAYS)
def test_each_seed_learns_from_its_own_episodes_however_it_is_trained(
    buffer, tmp_path, monkeypatch, way
):
    method, settings = WAYS[way]
    take, taken = TargetStore.take, []

    def watched(self, episodes):
        if len(episodes) == BATCH:  # others are measured or judged by
            taken.append(frozenset(episodes.tolist()))
        return take(self, episodes)

    monkeypatch.setattr(TargetStore, "take", watched)
    seeds = distill(buffer, tmp_path / "run", recipe(method, **settings)).seeds
    count = len(buffer.split("train"))
    mine = [set(own_episodes(count, BATCH, seed, SHARE).tolist()) for seed in seeds]
    assert len(taken) == len(seeds) * (count // BATCH)
    for k, batch in enumerate(taken):
        assert batch <= mine[k % len(seeds)]


@pytest.mark.parametrize("together", [False, True])
def test_an_interrupted_run_continues_and_repeats_to_the_same_bits(
    buffer, tmp_path, monkeypatch, together
):
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)
    chosen = recipe("multi-teacher", **{"optimisation.epochs": 2, "batched_seeds": together})
    whole = distill(buffer, tmp_path / "whole", chosen)

    def stop(step, values, series):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(buffer, tmp_path / "run", chosen, observers=[FunctionObserver(metrics=stop)])
    done = distill(buffer, tmp_path / "run", chosen, resume=True)
    assert [r.digest for r in done.results] == [r.digest for r in whole.results]
    if together:
        assert rerun(tmp_path / "run", tmp_path / "again", dataset=buffer).identical
