"""An expert that acts by full observations says so, and refuses views that do not hold them."""

from dataclasses import replace

import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.environments.stepping import full_spec, reset
from kd_offline.errors import MismatchError
from kd_offline.experts import checkpoint
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.checkpoint import check_fits
from kd_offline.experts.expert import TrainedExpert
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe

SEEDS = np.arange(3, dtype=np.uint64)
SMALL = ExpertArchitecture(trunk=(4,), gru=4, critic="none")


def board(size=4):
    return load("grid/predator_prey", size=size, n_predators=2, n_prey=2, view=3)


def expert(spec, **parts):
    recipe = TrainRecipe(environment=spec.id, algorithm="vdn", architecture=SMALL)
    card = ExpertCard(
        environment=spec,
        recipe=recipe,
        agents=spec.agents,
        parameters={"actor": 1},
        frames=1,
        seconds=0.0,
        threads=1,
        finished=True,
    )
    return TrainedExpert(card, "digest", checkpoint.build(card), "mine", **parts)


def test_an_expert_needs_full_observations_where_its_spec_or_its_opponents_spec_describes_them():
    plain, sighted = expert(board().spec), expert(full_spec(board()))
    assert (plain.needs_full, sighted.needs_full) == (False, True)
    assert replace(plain, opponents=sighted).needs_full


def test_a_view_without_full_observations_is_refused():
    sighted = expert(full_spec(board()))
    view = reset(board(), SEEDS)
    with pytest.raises(MismatchError, match="of 149 numbers of each agent, but is given none"):
        sighted.act(view, sighted.start(SEEDS))


def test_full_observations_of_another_board_are_refused():
    sighted, larger = expert(full_spec(board())), board(size=5)
    view = reset(larger, SEEDS, larger.full)
    with pytest.raises(MismatchError, match="is given 245 numbers of each agent: choose"):
        sighted.act(view, sighted.start(SEEDS))


def test_an_expert_of_full_observations_fits_the_environment_that_it_was_trained_for():
    check_fits(expert(full_spec(board())).card, board().spec, "mine")
