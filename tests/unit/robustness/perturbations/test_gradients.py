from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.experts.load import load
from kd_offline.robustness.perturbations.base import ColumnScale, Moment, Setting
from kd_offline.robustness.perturbations.gradients import Differentiable, Fgsm, Pgd, gradient
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.seeding import episode_seeds
from kd_offline.students import policy as students
from kd_offline.students.networks import InputScale
from kd_offline.students.policy import StudentPolicy
from kd_offline.testing.targets import TargetsPolicy
from tests.unit.evaluation.test_evaluation_setup import MASK, NAME, SPEC, rows

SEEDS = episode_seeds(0, 0, 20, "evaluation")
SCALE = ColumnScale(
    np.zeros((3, SPEC.obs_width), np.float32), np.full((3, SPEC.obs_width), 0.5, np.float32)
)


def student(family="gru"):
    card = StudentCard(
        environment=SPEC,
        architecture=StudentArchitecture(family=family, depth=1),
        widths=(8, 6, 4),
        mask="limited",
        mask_features=rows(MASK),
        mask_as_input=False,
        motion=True,
        last_action=True,
        method="kl",
        dataset="sha256:0",
        seeds=(0,),
    )
    rng = np.random.default_rng(1)
    team = students.build(card, rng)
    team.scale_inputs(InputScale(*(rng.uniform(0.5, 1.5, (3, SPEC.obs_width)) for _ in range(3))))
    return StudentPolicy(card, 0, team)


def third_moment(policy):
    """Return view and moment of a third step, in which policies remember two others."""
    environment = environments.load(NAME)
    view, memory, last = environment.reset(SEEDS), policy.start(SEEDS), None
    for _ in range(2):
        output, memory = policy.act(_with_last(view, last), memory)
        last = output.logits.argmax(-1)
        view = environment.step(last).view
    return _with_last(view, last), Moment(SEEDS, 2, {}, policy, memory)


def _with_last(view, last):
    return replace(view, last_actions=last)


POLICIES: dict[str, Any] = {
    "gru": student,
    "mlp": lambda: student("mlp"),
    "expert": lambda: load("bundled", SPEC, None, with_value=False),
}


@pytest.mark.parametrize("name", POLICIES)
def test_gradients_are_those_of_finite_differences(name):
    policy = POLICIES[name]()
    differentiable: Any = isinstance(policy, Differentiable) and policy.differentiable
    assert differentiable
    view, now = third_moment(policy)
    with torch.no_grad():
        given = torch.from_numpy(view.obs)
        logits = policy.differentiable_logits(given, view, now.memory)
    assert np.array_equal(logits.numpy(), policy.act(view, now.memory)[0].logits)
    greedy = logits.numpy().argmax(-1)

    def loss(obs):
        found = policy.differentiable_logits(torch.from_numpy(obs), view, now.memory)
        taken = found.double().log_softmax(-1).gather(-1, torch.from_numpy(greedy)[..., None])
        return -taken[..., 0].detach().numpy()

    found, step = gradient(view.obs, greedy, view, now), 1e-3
    for feature in (0, 5, 9, 13):
        moved = [view.obs.copy() for _ in range(2)]
        for sign, obs in zip((1, -1), moved, strict=True):
            obs[..., feature] += sign * step
        difference = (loss(moved[0]) - loss(moved[1])) / (2 * step)
        error = np.abs(found[..., feature] - difference)
        assert np.quantile(error, 0.95) < 0.01  # a step may cross the kink of a unit
    assert np.abs(found).max() > 0.05


def test_what_a_mask_hides_has_no_gradient_and_is_not_moved():
    policy = student()
    view, now = third_moment(policy)
    attack = Fgsm(Setting(SPEC, (0, 1, 2), SCALE, 0.2))
    moved = attack.observations(view, now) - view.obs
    seen = np.asarray(MASK)
    assert (moved[:, ~seen] == 0).all()
    steps = np.abs(moved[:, seen])
    assert steps.max() == pytest.approx(0.1, abs=1e-5)
    assert (steps > 0.09).mean() > 0.8  # a network whose units are all off has no gradient


def test_pgd_stays_within_its_box_and_raises_the_loss_more_than_one_step():
    policy = POLICIES["expert"]()
    view, now = third_moment(policy)
    logits = policy.act(view, now.memory)[0].logits
    greedy = logits.argmax(-1)
    losses = {}
    for kind in (Fgsm, Pgd):
        obs = kind(Setting(SPEC, (0, 1, 2), SCALE, 0.2)).observations(view, now)
        assert np.abs(obs - view.obs).max() <= 0.1 + 1e-6
        given = torch.from_numpy(obs.astype(np.float32))
        found = policy.differentiable_logits(given, view, now.memory).log_softmax(-1).numpy()
        losses[kind] = -np.take_along_axis(found, greedy[..., None], -1).mean()
    clean = torch.from_numpy(logits).log_softmax(-1).numpy()
    assert losses[Pgd] > losses[Fgsm] > -np.take_along_axis(clean, greedy[..., None], -1).mean()


def test_policies_without_networks_have_no_gradients():
    assert not isinstance(TargetsPolicy(), Differentiable)
