"""The objective on a real batch: what a perfect student gets, and what each switch changes."""

import numpy as np
import pytest
import torch

from kd_offline.distillation.methods import METHODS
from kd_offline.distillation.parallel_agents import parallel_agents
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import UsageError
from tests.unit.distillation.preparing import prepared

EPISODES = np.arange(12)
# Methods of arrays that a recording of this expert does not hold.
WITHOUT_THEIR_ARRAYS = {"q", "ctds", "ddn-external", "mixer", "ptde"}


def setting(buffer, widths=(8, 8, 8), **settings):
    found = prepared(buffer, distill_recipe(settings=settings), EPISODES, widths)
    return found, found.targets.take(EPISODES)


def terms(buffer, logits=None, progress=1.0, widths=(8, 8, 8), **settings):
    found, batch = setting(buffer, widths, **settings)
    own, embeddings = found.outputs(batch)
    own = own if logits is None else logits
    return found.losses(own, embeddings, batch, progress), batch.targets


def by_step(values):
    """Episodes of one length [B, T, ...] as they are packed."""
    return torch.from_numpy(values).transpose(0, 1).flatten(0, 1)


def expert_logits(buffer):
    values, _ = buffer.padded(["steps/logits"], EPISODES)
    return by_step(values["steps/logits"])


def test_the_expert_itself_has_no_kl_and_the_least_cross_entropy(buffer):
    perfect, batch = terms(buffer, expert_logits(buffer))
    assert perfect["kl"].item() == pytest.approx(0.0, abs=1e-5)
    best = -batch.expert_policy.max(-1).values
    assert perfect["ce"].item() == pytest.approx(best.mean().item(), abs=1e-5)


def test_ppo_ratio_of_the_expert_is_one_without_noise(buffer):
    """Where no noise was mixed in, the recorded log probability is the expert's own."""
    result, batch = terms(buffer, expert_logits(buffer))
    policy = batch.terms["policy"]
    taken = batch.expert_policy.gather(-1, policy["executed"].unsqueeze(-1)).squeeze(-1)
    clean = torch.from_numpy(buffer.episodes("noise_level")[EPISODES] == 0)
    taken, behaviour = (x.view(-1, *clean.shape, 3)[:, clean] for x in (taken, policy["behaviour"]))
    torch.testing.assert_close(taken, behaviour, atol=1e-4, rtol=1e-4)
    assert result["policy"].abs().item() < 1.0


def test_temperature_scales_the_kl_by_its_square(buffer):
    scaled, _ = terms(buffer)
    plain, _ = terms(buffer, **{"terms.kl.scale_by_temperature": False})
    assert scaled["kl"].item() == pytest.approx(4 * plain["kl"].item(), rel=1e-5)


def test_the_policy_term_sets_in_after_its_warm_up(buffer):
    early, _ = terms(buffer, progress=0.1)
    late, _ = terms(buffer, progress=0.5)
    weight = distill_recipe().weights["policy"]
    gap = early["loss"] - late["loss"]
    torch.testing.assert_close(gap, weight * late["policy"], atol=1e-5, rtol=1e-4)


def test_the_loss_is_the_weighted_sum_of_its_terms(buffer):
    result, _ = terms(buffer)
    w = distill_recipe().weights
    expected = (
        w["kl"] * result["kl"]
        + w["ce"] * result["ce"]
        - w["policy"] * result["policy"]
        + w["structure"] * result["structure"]
        + w["role"] * result["role"]
    )
    torch.testing.assert_close(result["loss"], expected)


def test_equation_6_as_printed(buffer):
    settings = {"objective.form": "eq6", "terms.ce.target": "soft"}
    result, _ = terms(buffer, progress=0.0, **settings)
    w = distill_recipe().weights
    lost = w["structure"] * (result["structure"] + result["role"])
    torch.testing.assert_close(result["loss"], (w["kl"] + 1) * result["ce"] + lost)


@pytest.mark.parametrize(
    "settings",
    [
        {"terms.policy.form": "awr"},
        {"terms.policy.form": "crr"},
        {"weights.policy": 0},
        {"terms.policy.ratio": "joint"},
        {"terms.policy.temperature": "kl"},
        {"terms.ce.target": "executed"},
        {"terms.ce.target": "sampled"},
        {"terms.ce.target": "soft"},
        {"terms.structure.relation": "linear"},
        {"terms.structure.relation": "mlp"},
        {"terms.structure.pairs": "sum"},
        {"terms.structure.centre": True},
        {"terms.role.init": "pca"},
        {"terms.role.init": "random"},
        {"objective.agents": "sum"},
        {"terms.policy.gae_horizon": 3},
        {"weights.entropy": 0.01},
    ],
)
def test_every_switch_gives_finite_gradients_and_another_loss(buffer, settings):
    found, batch = setting(buffer, **settings)
    with parallel_agents(found.team, 1) as passes:
        loss = found.losses(*passes.forward(batch)[:2], batch)["loss"]
        passes.backward(loss)
    gradients = [p.grad for p in found.team.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert loss.item() != pytest.approx(terms(buffer)[0]["loss"].item(), abs=1e-7)


def test_unequal_widths_are_projected_and_equal_ones_are_not(buffer):
    assert "structure" in setting(buffer, widths=(8, 4, 4))[0].heads.terms
    assert "structure" not in setting(buffer)[0].heads.terms


@pytest.mark.parametrize("method", sorted(METHODS.keys() - WITHOUT_THEIR_ARRAYS))
def test_methods_compute_only_the_targets_of_their_terms(buffer, method):
    mask = "limited" if method == "hidden-features" else "full"
    recipe = distill_recipe(method=method, mask=mask)
    found = prepared(buffer, recipe, EPISODES).targets.targets
    terms = {name for name, targets in found.terms.items() if targets}
    weighted = {name for name, weight in recipe.weights.items() if weight}
    # These compare with the expert's policy, which is kept for all terms.
    shared = {"logits"} | ({"ce"} if recipe.terms["ce"]["target"] == "soft" else set())
    assert terms == weighted - shared


def test_without_a_weight_nothing_is_left_to_learn():
    with pytest.raises(UsageError, match="no loss term has a weight"):
        distill_recipe(method="kl", settings={"weights.kl": 0})


def test_cloning_leaves_out_what_noise_or_a_partner_did(buffer):
    """Changing the student only where others acted changes no cross entropy of executed actions."""
    found, batch = setting(buffer, **{"terms.ce.target": "executed"})
    source = buffer.padded(["steps/action_source"], EPISODES)[0]["steps/action_source"]
    theirs = by_step(source != 0)
    assert theirs.any()
    logits, embeddings = found.outputs(batch)
    values = []
    for shift in (0.0, 5.0):
        other = logits.detach().clone()
        other[..., 0] += shift * theirs
        terms_ = found.losses(other, embeddings, batch)
        values.append((terms_["ce"].item(), terms_["kl"].item()))
    assert values[0][0] == pytest.approx(values[1][0], abs=1e-6)
    assert values[0][1] != pytest.approx(values[1][1], abs=1e-3)
