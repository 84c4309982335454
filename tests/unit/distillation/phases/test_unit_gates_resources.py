"""The penalty on expected costs. A layer of w between 6 inputs and 5 actions has 11 w MACs."""

from dataclasses import replace

import pytest
import torch

from kd_offline.distillation.phases.unit_gates import Resources, budget_used, expected_cost
from kd_offline.hardware import profiles
from kd_offline.networks.arithmetic import ExportedShape
from kd_offline.schemas.budget import Budget
from kd_offline.schemas.recipes import UnitGates
from kd_offline.students.cost_bounds import Bounds, figures
from kd_offline.students.l0_gates import Gates
from kd_offline.students.policy import build
from tests.unit.distillation.test_design_budgets import card

NAMES = {"macs", "flash_kb", "ram_kb", "latency_us", "energy_uj"}
GRU = ExportedShape(7, (12, 9), 10, 5, motion=True, last_action=True)
MLP = ExportedShape(7, (12, 24), None, 5)


def as_tensors(shape):
    gru = None if shape.gru is None else torch.tensor(float(shape.gru), requires_grad=True)
    trunk = tuple(torch.tensor(float(w), requires_grad=True) for w in shape.trunk)
    return replace(shape, trunk=trunk, gru=gru)


def resources(budget, *widths, start=0.5, **settings):
    bounds = Bounds.of(card(*widths), budget)
    return Resources(Gates(build(bounds.card, None).shapes, start), bounds, UnitGates(**settings))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("profile", [None, "stm32f4", "raspberry-pi-4", "jetson-agx-orin"])
@pytest.mark.parametrize("shape", [GRU, MLP])
def test_at_whole_widths_it_is_the_closed_form(shape, profile, precision):
    device = None if profile is None else profiles.load(profile)
    budget = Budget(max_macs=1, profile=profile, precision=precision)
    known = figures(shape, budget, device)
    bounds = Bounds(card(8), budget, device, dict.fromkeys(NAMES & known.keys(), 1.0))
    found = expected_cost(as_tensors(shape), bounds)
    worked = {name: known[name].value for name in bounds.limits}
    assert {name: float(x.detach()) for name, x in found.items()} == pytest.approx(worked, rel=1e-6)


@pytest.mark.parametrize("name", ["macs", "flash_kb", "ram_kb", "latency_us"])
def test_every_cost_falls_with_every_width(name):
    bounds = Bounds(card(8), Budget(profile="stm32f4"), profiles.load("stm32f4"), {name: 1.0})
    shape = as_tensors(GRU)
    expected_cost(shape, bounds)[name].backward()
    slopes = [width.grad for width in (*shape.trunk, shape.gru)]
    if name == "ram_kb":  # the narrower of two buffers costs nothing
        slopes = slopes[-1:]
    assert all(slope > 0 for slope in slopes)


def test_the_penalty_and_its_gradient_worked_by_hand():
    # 8 units of probability 1/2 are 4: 44 MACs of 22, and (2 - 1)^2 = 1 for each of two agents
    term = resources(Budget(max_macs=22), 8, 8, weight=3.0, ramp=0.5)
    said = term.priced(torch.tensor(10.0), 1.0)
    assert float(said["resources"]) == pytest.approx(2.0)
    assert float(said["budget_used"]) == pytest.approx(2.0)
    assert said["loss"].item() == pytest.approx(16.0)
    said["loss"].backward()
    # 3 x 2 (C/B - 1) x 11 / 22 x p (1 - p)
    for each in term.gates.log_alpha:
        assert each.grad.tolist() == pytest.approx([0.75] * 8)


def test_the_penalty_sets_in_slowly_and_ends_at_the_budget():
    term = resources(Budget(max_macs=22), 8, weight=1.0, ramp=0.5)
    losses = [term.priced(torch.tensor(0.0), x)["loss"].item() for x in (0.0, 0.25, 0.5, 1.0)]
    assert losses == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert float(term.priced(torch.tensor(0.0), 1.0)["resources"]) == pytest.approx(1.0)
    at_once = resources(Budget(max_macs=22), 8, weight=1.0, ramp=0.0)
    assert at_once.priced(torch.tensor(0.0), 0.0)["loss"].item() == pytest.approx(1.0)
    met = resources(Budget(max_macs=45), 8).priced(torch.tensor(0.0), 1.0)
    met["loss"].backward()
    assert float(met["resources"]) == 0.0
    assert float(met["budget_used"]) == pytest.approx(44 / 45)


def test_on_a_shared_device_costs_are_added():
    apart = resources(Budget(max_macs=44), 8, 4)
    together = resources(Budget(max_macs=44, shared_device=True), 8, 4)
    used = [budget_used(each.expected(), each.bounds).tolist() for each in (apart, together)]
    assert used[0] == pytest.approx([1.0, 0.5])
    assert used[1] == pytest.approx([1.5])
