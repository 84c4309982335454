"""What the policy-gradient term imitates, by hand."""

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation import losses
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.unit.distillation.preparing import prepared

SPEC = environment_spec((4,), (3,))
VALUES = [[1.5, 0.9], [2.2, 1.2]]
"""Returns at gamma 1 are 2 and 1, so the advantages at lambda 1 are 0.5, 0.1, -0.2 and -0.2."""


def advantages(path, term):
    """The advantages that a recipe's loss is given for two episodes of two rewards of 1."""
    block = episode_block(SPEC, [2, 2])
    block.steps["reward"] = np.ones((4, 1), np.float32)
    block.steps["value"] = np.array(VALUES, np.float32).reshape(4, 1)
    for name in ("terminated", "truncated"):
        block.steps[name] = np.array([0, 1, 0, 1], bool) & (name == "terminated")
    block.steps["available_actions"] = np.ones((4, 1, 3), bool)
    top = header(SPEC).model_copy(update={"heldout": 0.0})
    with DatasetWriter.create(path, top) as writer:
        writer.append(block)
        writer.commit({"full": full_mask(SPEC)})
    buffer = ExpertBuffer.open(path)
    settings = {
        "terms.policy.form": term,
        "terms.policy.gamma": 1.0,
        "terms.policy.gae_lambda": 1.0,
    }
    recipe = distill_recipe(settings=settings | {"weights.role": 0.0, "weights.structure": 0.0})
    return prepared(buffer, recipe).targets.targets.terms["policy"]["advantage"][:, 0]


def test_crr_imitates_what_was_better_than_the_value_and_nothing_else(tmp_path):
    found = advantages(tmp_path / "d", "crr")
    torch.testing.assert_close(found, torch.tensor([0.5, 0.1, -0.2, -0.2]))
    gain = losses.positive_only(torch.full((4,), -1.0), found)
    assert gain.tolist() == [-1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("term", ["ppo", "awr"])
def test_the_other_terms_take_normalised_advantages(tmp_path, term):
    found = advantages(tmp_path / "d", term)
    raw = np.array([0.5, 0.1, -0.2, -0.2])
    torch.testing.assert_close(found, torch.tensor((raw - 0.05) / raw.std()).float())
