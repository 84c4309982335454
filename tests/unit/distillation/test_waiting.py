"""What a dataset holds of agents that wait for their turn changes no student."""

import json

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.distillation import block_importance
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.exports import parity_check
from kd_offline.recording import relabel
from kd_offline.recording.episodes import Part
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header

MEANINGLESS = {"value", "logits", "embedding", "behaviour_logprob", "action_source"}


def written(path, spoiled, without=()):
    """Two agents in turn; what is said of the one that waits is noise where ``spoiled``."""
    spec = environment_spec((5, 4), (4, 3))
    lengths = [5 + k % 6 for k in range(40)]
    block = episode_block(spec, lengths, without=without)
    steps = block.steps
    moves = np.concatenate([np.arange(length) for length in lengths])
    waits = np.arange(2) != moves[:, None] % 2
    steps["alive"][waits] = False
    steps["available_actions"][waits] = False
    steps["actions"][waits] = 0
    # A critic that is right about every agent's own moves, so that the policy term is on.
    for k, stop in enumerate(np.cumsum(lengths)):
        after = 0.0 if block.steps["terminated"][stop - 1] else block.final["value"][k].mean()
        for row in range(stop - 1, stop - 1 - lengths[k], -1):
            after = steps["reward"][row].mean() + 0.99 * after
            steps["value"][row] = after + 0.01 * np.sin(row)
    block.final["value"][:] = block.final["value"].mean(axis=1, keepdims=True)
    rng = np.random.default_rng(1)
    for name in steps.keys() & MEANINGLESS if spoiled else ():
        kind = steps[name].dtype
        noise = rng.integers(0, 3, steps[name].shape) if kind == np.uint8 else None
        noise = -np.abs(rng.normal(0, 50, steps[name].shape)) if noise is None else noise
        steps[name][waits] = noise.astype(kind)[waits]
    if spoiled:
        steps["actions"][waits] = 99
    with DatasetWriter.create(path, header(spec)) as writer:
        writer.append(block)
        writer.commit({"full": full_mask(spec)})
    return path


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("kd-marl", {"terms.policy.form": "awr", "terms.policy.gamma": 0.99}),
        ("kd-marl", {"terms.policy.form": "ppo", "terms.policy.gamma": 0.99}),
        ("kd-marl", {"terms.policy.form": "crr", "terms.policy.gamma": 0.99}),
        ("kl", {"optimisation.epochs": 2, "student.last_action": True}),
        ("bc", {}),
    ],
)
def test_noise_about_agents_that_wait_changes_no_bit(tmp_path, method, settings):
    small = {"student.hidden": 8, "optimisation.epochs": 1, "optimisation.batch_episodes": 8}
    recipe = distill_recipe(method=method, settings={**small, "threads": 1, **settings})
    found = []
    for name in ("clean", "spoiled"):
        data = written(tmp_path / f"{name}.zarr", name == "spoiled")
        distill(data, tmp_path / name, recipe)
        run = json.loads((tmp_path / name / "run.json").read_text())["results"][0]
        found.append((run["digest"], run["held_out"]))
    assert found[0] == found[1]
    assert all(np.isfinite(value) for value in found[0][1].values())


def test_an_action_that_there_is_not_is_no_action_of_an_agent_that_waits(tmp_path):
    """Export, the probe of what blocks are worth, and labels that are computed again."""
    buffer = ExpertBuffer.open(written(tmp_path / "d.zarr", True, without=("steps/logits",)))
    episodes = parity_check.recorded(buffer, 5)
    assert set(episodes.arrays["actions"][~episodes.arrays["alive"]].tolist()) == {0}
    _, _, decisions, _ = block_importance._sample(buffer)
    assert (decisions.sum(-1) == 1).all()
    arrays, valid = buffer.padded(["steps/obs", "steps/available_actions"], np.arange(3))
    more, _ = buffer.padded(["steps/alive", "steps/actions"], np.arange(3))
    part = Part(np.arange(3), valid.sum(1), {**arrays, **more})
    last = relabel._view(buffer.spec, part, 1).last_actions
    assert last is not None
    assert last[:, 1].tolist() == [0, 0, 0]
