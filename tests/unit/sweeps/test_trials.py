import pytest

from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.sweep import SweepPlan
from kd_offline.sweeps.trials import Choice, choose


class Last:
    """A sampler that takes the last of everything, but the architecture it is told."""

    def __init__(self, architecture):
        self.architecture = architecture
        self.asked = []

    def suggest_categorical(self, name, choices):
        self.asked.append(name)
        return self.architecture if name == "architecture" else choices[-1]


PLAN = SweepPlan(judge="agreement", widths=(8, 24))


@pytest.mark.parametrize("kind", ["gru", "low-rank"])
def test_choice(kind):
    sampler = Last(kind)
    assert choose(sampler, PLAN, ("a", "b")) == Choice(kind, "int8", (24, 24))
    assert sampler.asked == ["architecture", "width.a", "width.b", "precision"]


def test_recipe_of_a_choice():
    base = DistillRecipe(seeds=(3, 4), mask="limited")
    low = Choice("low-rank", "fp32", (24, 8)).recipe(base)
    student = low.student.model_dump()
    assert (student["family"], student["rank_share"], low.student.hidden) == ("gru", 0.25, (24, 8))
    assert (low.seeds, low.mask, low.budget) == ((3,), "limited", None)
    mlp = Choice("mlp", "int8", (8, 8)).recipe(base)
    assert mlp.student.family == "mlp"
    assert "rank_share" not in mlp.student.model_dump()
