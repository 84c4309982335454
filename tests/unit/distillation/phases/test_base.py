"""Phases as the training loop sees them: it names none, so a made-up one does all that ours do."""

import numpy as np
import pytest
import torch

from kd_offline.distillation.phases.base import Phase
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.train import Training, finish, train_team
from tests.unit.distillation.preparing import prepared

EPOCHS = 4
SETTINGS = {"optimisation.epochs": EPOCHS, "optimisation.batch_episodes": 16}


class Tax(Phase):
    """Adds a trained number to the loss, drawn and saved by the phase itself."""

    name = "tax"
    saved_as = "tax"

    def __init__(self, first, end):
        super().__init__(first, end)
        self.rate = torch.nn.Parameter(torch.ones(()))
        self.seen = []
        self.drawn = 0.0

    def begin(self, state):
        state.optimisers.append(torch.optim.Adam([self.rate], 0.1, fused=True))
        state.team.taxed = True

    def draw(self, rng):
        self.drawn = rng.random()

    def losses(self, loss, progress):
        self.seen.append(progress)
        return {"loss": loss + self.drawn * self.rate.square(), "tax": self.rate}

    def leave(self, state):
        state.team.taxed = False
        state.optimisers.pop()

    def tensors(self):
        return {"rate": self.rate.detach()}

    def restore(self, tensors):
        self.rate.data.copy_(tensors["rate"])


@pytest.fixture
def made(buffer):
    return lambda: prepared(buffer, distill_recipe(method="kl", settings=SETTINGS))


def begun(found, phase):
    return Training.begin(found.team, found.heads, found.terms.recipe.optimisation, [phase])


def rows_of(state, found):
    return [rows[0] for rows in train_team(state, found.targets, None, found.terms, 0)]


def test_a_phase_takes_part_in_the_steps_between_its_borders(made):
    found, phase = made(), Tax(1, 3)
    state = begun(found, phase)
    rows = rows_of(state, found)
    assert ["tax" in row for row in rows] == [False, True, True, False]
    np.testing.assert_allclose(phase.seen, np.arange(len(phase.seen)) / len(phase.seen))
    assert 0 < rows[2]["tax"] < rows[1]["tax"] < 1  # its own optimiser moves it
    assert state.team.taxed is False


@pytest.mark.parametrize("cut", [1, 2, 3])  # as it begins, within it, as it ends
def test_a_phase_is_saved_and_continues_to_the_same_bits(made, cut):
    whole, phase = made(), Tax(1, 3)
    state = begun(whole, phase)
    steps = train_team(state, whole.targets, None, whole.terms, 0)
    for _ in range(cut):
        next(steps)
    saved = {name: values.clone() for name, values in state.tensors().items()}
    assert ("tax.rate" in saved) == (cut > 1)
    rest = [rows[0] for rows in steps]
    again = made()
    resumed = begun(again, Tax(1, 3))
    resumed.restore(cut, saved)
    assert rows_of(resumed, again) == rest
    for mine, theirs in zip(
        finish(resumed)[0].parameters(), finish(state)[0].parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_what_lasts_to_the_end_is_left_before_the_team_is_given_back(made):
    found = made()
    state = begun(found, Tax(0, EPOCHS))
    rows_of(state, found)
    assert state.team.taxed
    assert not finish(state)[0].taxed
