"""Teams of several sides: rewards, critics, relations and joint figures never mix."""

import numpy as np
import pytest
import torch

from kd_offline.advantage import side_sum
from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation import losses
from kd_offline.distillation.objective import student_batch
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.targets import Targets
from kd_offline.distillation.validation_metrics import _imitation
from kd_offline.errors import UsageError
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.unit.distillation.preparing import prepared

SPEC = environment_spec((4, 6, 6), (3, 5, 5)).model_copy(
    update={"sides": {"wolf": ("agent_0",), "sheep": ("agent_1", "agent_2")}}
)
RECIPE = distill_recipe(settings={"weights.structure": 0.0, "weights.role": 0.0})


def recorded(path, reward, value, source=0):
    """Write episodes of one step that all end by termination."""
    block = episode_block(SPEC, [1] * len(reward))
    block.steps["reward"] = np.asarray(reward, np.float32)
    block.steps["value"] = np.asarray(value, np.float32)
    block.steps["terminated"][:], block.steps["truncated"][:] = True, False
    block.steps["available_actions"][...] = np.arange(5) < np.array(SPEC.action_counts)[:, None]
    block.steps["actions"][:] = 0
    block.steps["action_source"][:] = source
    with DatasetWriter.create(path, header(SPEC)) as writer:
        writer.append(block)
        writer.commit({"full": full_mask(SPEC)})
    return ExpertBuffer.open(path)


def advantages(buffer):
    return prepared(buffer, RECIPE, np.arange(buffer.n_episodes)).targets.targets.terms["policy"][
        "advantage"
    ]


def test_advantages_come_from_the_side_own_reward_and_scale(tmp_path):
    # The sheep share the mean of their rewards; the wolf's, a hundred times as large, is its own.
    reward = [[100.0, 1.0, 3.0], [300.0, 5.0, 3.0], [500.0, 5.0, 7.0]]  # sheep: 2, 4, 6
    value = [[200.0, 2.5, 2.5], [300.0, 4.0, 4.0], [400.0, 5.5, 5.5]]
    found = advantages(recorded(tmp_path / "d.zarr", reward, value))
    # Residuals of the wolf: -100, 0, 100; of each of the sheep: -0.5, 0, 0.5.
    wanted = np.sqrt(1.5) * np.array([-1.0, 0.0, 1.0])
    for agent in range(3):
        np.testing.assert_allclose(found[:, agent], wanted, atol=1e-5)


def test_a_critic_that_fails_one_side_is_not_hidden_by_the_other(tmp_path):
    reward = [[-500.0, 1.0, 1.0], [-501.0, 2.0, 2.0], [-502.0, 3.0, 3.0]]
    value = [[-500.0, 2.0, 2.0], [-501.0, 2.0, 2.0], [-502.0, 2.0, 2.0]]  # sheep: knows the mean
    buffer = recorded(tmp_path / "d.zarr", reward, value)
    with pytest.raises(UsageError, match=r"explains 0\.00 .* of side 'sheep'"):
        advantages(buffer)


def test_a_critic_is_judged_by_what_the_expert_played_alone(tmp_path):
    reward = [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [-9.0, -9.0, -9.0], [-8.0, -8.0, -8.0]]
    value = [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [1.5, 1.5, 1.5], [1.5, 1.5, 1.5]]
    noisy = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 2, 0]], np.uint8)
    found = advantages(recorded(tmp_path / "noisy.zarr", reward, value, noisy))
    # Advantages are of all episodes: residuals of each side are 0, 0, -10.5 and -9.5.
    assert found[:2, 0].min() > found[2:, 0].max() + 1
    with pytest.raises(UsageError, match=r"explains -\d+\.\d+ .* of side 'wolf'"):
        advantages(recorded(tmp_path / "alone.zarr", reward, value))


def test_opponents_have_no_relation():
    assert losses.pairs_within((0, 1, 1, 0)) == [(0, 3), (1, 2)]
    embeddings = [torch.tensor(e) for e in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])]
    assert losses.cosine_relations(embeddings, (0, 1, 1)).tolist() == pytest.approx([0.5**0.5])
    assert losses.cosine_relations(embeddings[:2], (0, 1)).shape == (0,)


def test_a_joint_ratio_is_that_of_the_side():
    logprob = torch.tensor([[1.0, 10.0, 100.0]])
    assert side_sum(logprob, (0, 1, 1)).tolist() == [[1.0, 110.0, 110.0]]
    assert side_sum(logprob, (0, 0, 0)).tolist() == [[111.0, 111.0, 111.0]]


def test_joint_agreement_asks_each_side_alone():
    expert = torch.log_softmax(torch.eye(3)[[0, 1, 2]] * 5, -1).expand(1, 3, 3)
    student = expert.clone()
    student[..., 0, :] = student[..., 0, [1, 0, 2]]  # the wolf errs
    here = torch.ones(1, 3)
    part = Targets(here, here, torch.ones(1, 3, 3).bool(), here, here, expert_policy=expert)
    apart, together = (
        _imitation(student_batch(student, [], part, spec), here)["joint_agreement"]
        for spec in (SPEC, SPEC.model_copy(update={"sides": {"all": SPEC.agents}}))
    )
    assert [x.sum().item() for x in (apart.values, apart.weight)] == [1, 2]
    assert [x.sum().item() for x in (together.values, together.weight)] == [0, 1]
