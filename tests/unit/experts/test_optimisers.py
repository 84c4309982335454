"""The optimisers of Q-learning, and where recipes choose them."""

import pytest
import torch

from kd_offline.errors import UsageError
from kd_offline.experts.optimisers import new_optimiser
from kd_offline.experts.recipe import recipe_from


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("adam", 0.1 * 2 / (2 + 1e-5)),
        ("rmsprop", 0.1 * 2 / ((0.01 * 2**2) ** 0.5 + 1e-5)),
    ],
)
def test_a_first_step_worked_by_hand(name, step):
    """The gradient is 2, the learning rate 0.1."""
    weight = torch.tensor([1.0], requires_grad=True)
    optimiser = new_optimiser(name, [weight], 0.1)
    (2 * weight).sum().backward()
    optimiser.step()
    assert weight.item() == pytest.approx(1 - step, abs=1e-6)


def test_the_default_is_left_out_of_documents_and_another_one_is_kept():
    given = {"environment": "x", "algorithm": "ddn"}
    document = recipe_from(given).model_dump(mode="json")
    assert "optimiser" not in document
    assert "optimiser" not in document["distillation"]
    chosen = {**given, "optimiser": "rmsprop", "distillation": {"optimiser": "rmsprop"}}
    document = recipe_from(chosen).model_dump(mode="json")
    assert document["optimiser"] == document["distillation"]["optimiser"] == "rmsprop"
    assert recipe_from(document) == recipe_from(chosen)


@pytest.mark.parametrize(
    ("algorithm", "optimiser", "words"),
    [("vdn", "sgd", "'adam' or 'rmsprop'"), ("mappo", "rmsprop", "optimiser")],
)
def test_optimisers_that_an_algorithm_does_not_have_are_refused(algorithm, optimiser, words):
    given = {"environment": "x", "algorithm": algorithm, "optimiser": optimiser}
    with pytest.raises((UsageError, ValueError), match=words):
        recipe_from(given)
