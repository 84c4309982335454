"""Which units stay. A network of 6 inputs, one layer of w and 5 actions has 11 w MACs."""

import pytest
import torch

from kd_offline.errors import BudgetError
from kd_offline.schemas.budget import Budget
from kd_offline.students.cost_bounds import Bounds
from kd_offline.students.l0_gates import Gates, log_alpha_of
from kd_offline.students.policy import build
from kd_offline.students.structured_pruning import choose, settle
from tests.unit.distillation.test_design_budgets import card


def gates_of(bounds, *probabilities):
    """Return gates whose agents' units are that probable."""
    gates = Gates(build(bounds.card, None).shapes, 0.5)
    with torch.no_grad():
        for each, given in zip(gates.log_alpha, probabilities, strict=True):
            each.copy_(torch.tensor([log_alpha_of(p) for p in given]))
    return gates


def units(chosen):
    return [torch.nonzero(layers[0]).squeeze(-1).tolist() for layers in chosen]


def test_shut_gates_go_and_at_least_four_units_stay():
    bounds = Bounds.of(card(6, 6), Budget(max_macs=10**6))
    # A gate settles at 0 below sigmoid(-ln 11 + 1.5986) = 0.3102.
    gates = gates_of(bounds, [0.9, 0.31, 0.8, 0.7, 0.32, 0.6], [0.1, 0.2, 0.3, 0.25, 0.15, 0.05])
    assert units(choose(gates, bounds)) == [[0, 2, 3, 4, 5], [1, 2, 3, 4]]


def test_the_least_probable_go_until_each_device_fits():
    bounds = Bounds.of(card(8, 8), Budget(max_macs=66))
    falling = [0.99 - 0.05 * k for k in range(8)]
    gates = gates_of(bounds, falling, falling[::-1])
    assert units(choose(gates, bounds)) == [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]]


def test_on_a_shared_device_the_least_probable_of_the_team_go():
    bounds = Bounds.of(card(8, 8), Budget(max_macs=132, shared_device=True))
    gates = gates_of(bounds, [0.9] * 8, [0.8, 0.7, 0.6, 0.95, 0.5, 0.99, 0.4, 0.98])
    # 12 units fit: four of the second agent go, and no more of it may.
    assert units(choose(gates, bounds)) == [list(range(8)), [0, 3, 5, 7]]
    less = Bounds.of(card(8, 8), Budget(max_macs=110, shared_device=True))
    assert units(choose(gates, less)) == [list(range(6)), [0, 3, 5, 7]]  # the last of equals


def test_the_small_team_is_within_the_limits_of_the_exported_form():
    budget = Budget(max_flash_kb=0.75)  # 16 wide takes 60 x 16 + 80 = 1040 bytes, 8 wide 560
    bounds = Bounds.of(card(16), budget)
    gates = gates_of(bounds, [0.9] * 16)
    team = build(bounds.card, None)
    small = settle(team, gates, bounds)
    assert small.team.shapes[0].trunk == (8,)
    assert not bounds.exceeded(bounds.cost(0, 8))
    assert bounds.exceeded(bounds.cost(0, 9))


def test_what_even_four_units_exceed_is_refused_before():
    bounds = Bounds.of(card(8), Budget(max_macs=43))
    with pytest.raises(BudgetError, match=r"settings=.'budget.max_macs': 44"):
        bounds.require_possible()
