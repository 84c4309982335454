"""The objective on a real batch: what a perfect student gets, and what each switch changes."""

import numpy as np
import pytest
import torch

from kd_offline.distillation.lessons import first_critic, measured, ordered, taught
from kd_offline.distillation.methods import METHODS
from kd_offline.distillation.objective import objective
from kd_offline.distillation.projections import Projections
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.roles import fit_roles
from kd_offline.distillation.side_by_side import side_by_side
from kd_offline.distillation.targets import Lesson
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.students.networks import StudentInputs, StudentTeam

EPISODES = np.arange(12)


def targets_of(buffer, recipe, team, roles):
    loader = ordered(buffer, EPISODES, recipe)
    measures = measured(loader, recipe)
    lesson = Lesson(buffer.spec, first_critic(buffer), recipe, measures, team, roles)
    return taught(loader, lesson)


def setting(buffer, widths=(8, 8, 8), **settings):
    recipe = distill_recipe(settings=settings)
    architecture = StudentArchitecture(hidden=widths)
    rng = np.random.default_rng(0)
    team = StudentTeam(buffer.spec, architecture, widths, rng, StudentInputs())
    roles = fit_roles(buffer, EPISODES, recipe.switches)
    targets = targets_of(buffer, recipe, team, roles)
    projections = Projections(widths, roles.roles, recipe.switches, rng)
    return recipe, team, targets.take(EPISODES), projections


def terms(buffer, logits=None, progress=1.0, widths=(8, 8, 8), **settings):
    recipe, team, batch, projections = setting(buffer, widths, **settings)
    own, embeddings = said(team, batch)
    return objective(
        own if logits is None else logits, embeddings, batch.targets, projections, recipe, progress
    ), batch.targets


def said(team, batch):
    with side_by_side(team, 1) as passes:
        return passes.forward(batch)


def by_step(values):
    """Episodes of one length [B, T, ...] as they are packed."""
    return torch.from_numpy(values).transpose(0, 1).flatten(0, 1)


def expert_logits(buffer):
    values, _ = buffer.padded(["steps/logits"], EPISODES)
    return by_step(values["steps/logits"])


def test_the_expert_itself_has_no_kl_and_the_least_cross_entropy(buffer):
    perfect, batch = terms(buffer, expert_logits(buffer))
    assert perfect["kl"].item() == pytest.approx(0.0, abs=1e-5)
    best = -batch.expert.max(-1).values
    assert perfect["ce"].item() == pytest.approx(best.mean().item(), abs=1e-5)


def test_ppo_ratio_of_the_expert_is_one_without_noise(buffer):
    """Where no noise was mixed in, the recorded log probability is the expert's own."""
    result, batch = terms(buffer, expert_logits(buffer))
    taken = batch.expert.gather(-1, batch.executed.unsqueeze(-1)).squeeze(-1)
    clean = torch.from_numpy(buffer.episodes("noise_level")[EPISODES] == 0)
    taken, behaviour = (x.view(-1, *clean.shape, 3)[:, clean] for x in (taken, batch.behaviour))
    torch.testing.assert_close(taken, behaviour, atol=1e-4, rtol=1e-4)
    assert result["policy"].abs().item() < 1.0


def test_temperature_scales_the_kl_by_its_square(buffer):
    scaled, _ = terms(buffer)
    plain, _ = terms(buffer, **{"switches.scale_by_temperature": False})
    assert scaled["kl"].item() == pytest.approx(4 * plain["kl"].item(), rel=1e-5)


def test_the_policy_term_sets_in_after_its_warm_up(buffer):
    early, _ = terms(buffer, progress=0.1)
    late, _ = terms(buffer, progress=0.5)
    weight = distill_recipe().weights.policy
    gap = early["loss"] - late["loss"]
    torch.testing.assert_close(gap, weight * late["policy"], atol=1e-5, rtol=1e-4)


def test_the_loss_is_the_weighted_sum_of_its_terms(buffer):
    result, _ = terms(buffer)
    w = distill_recipe().weights
    expected = (
        w.kl * result["kl"]
        + w.ce * result["ce"]
        - w.policy * result["policy"]
        + w.structure * result["structure"]
        + w.role * result["role"]
    )
    torch.testing.assert_close(result["loss"], expected)


def test_equation_6_as_printed(buffer):
    settings = {"switches.form": "eq6", "switches.ce_target": "soft"}
    result, _ = terms(buffer, progress=0.0, **settings)
    w = distill_recipe().weights
    lost = w.structure * (result["structure"] + result["role"])
    torch.testing.assert_close(result["loss"], (w.kl + 1) * result["ce"] + lost)


@pytest.mark.parametrize(
    "settings",
    [
        {"switches.policy_term": "awr"},
        {"switches.policy_term": "crr"},
        {"switches.policy_term": "none"},
        {"switches.ratio": "joint"},
        {"switches.policy_temperature": "kl"},
        {"switches.ce_target": "executed"},
        {"switches.ce_target": "sampled"},
        {"switches.ce_target": "soft"},
        {"switches.relation": "linear"},
        {"switches.relation": "mlp"},
        {"switches.pairs": "sum"},
        {"switches.centre": True},
        {"switches.role_init": "pca"},
        {"switches.role_init": "random"},
        {"switches.agents": "sum"},
        {"switches.gae_horizon": 3},
        {"weights.entropy": 0.01},
    ],
)
def test_every_switch_gives_finite_gradients_and_another_loss(buffer, settings):
    recipe, team, batch, projections = setting(buffer, **settings)
    with side_by_side(team, 1) as passes:
        loss = objective(*passes.forward(batch), batch.targets, projections, recipe, 1.0)["loss"]
        passes.backward(loss)
    gradients = [p.grad for p in team.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert loss.item() != pytest.approx(terms(buffer)[0]["loss"].item(), abs=1e-7)


def test_unequal_widths_are_projected_and_equal_ones_are_not(buffer):
    *_, projections = setting(buffer, widths=(8, 4, 4))
    assert projections.kind == "linear"
    *_, projections = setting(buffer)
    assert projections.kind == "none"


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"q"}))
def test_methods_read_only_what_they_need(buffer, method):
    recipe = distill_recipe(method=method)
    team = StudentTeam(
        buffer.spec,
        StudentArchitecture(hidden=4),
        (4, 4, 4),
        np.random.default_rng(0),
        StudentInputs(),
    )
    targets = targets_of(buffer, recipe, team, None).targets
    assert (targets.softened is not None) == (recipe.weights.kl > 0)
    assert (targets.advantage is not None) == (recipe.weights.policy > 0)
    assert (targets.relations is not None) == (recipe.weights.structure > 0)


def test_cloning_leaves_out_what_noise_or_a_partner_did(buffer):
    """Changing the student only where others acted changes no cross entropy of executed actions."""
    recipe, team, batch, projections = setting(buffer, **{"switches.ce_target": "executed"})
    source = buffer.padded(["steps/action_source"], EPISODES)[0]["steps/action_source"]
    theirs = by_step(source != 0)
    assert theirs.any()
    logits, embeddings = said(team, batch)
    values = []
    for shift in (0.0, 5.0):
        other = logits.detach().clone()
        other[..., 0] += shift * theirs
        terms_ = objective(other, embeddings, batch.targets, projections, recipe, 1.0)
        values.append((terms_["ce"].item(), terms_["kl"].item()))
    assert values[0][0] == pytest.approx(values[1][0], abs=1e-6)
    assert values[0][1] != pytest.approx(values[1][1], abs=1e-3)
