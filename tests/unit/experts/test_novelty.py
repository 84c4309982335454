"""Random network distillation: moments, bonus, what is kept of it, and that it fades."""

import numpy as np
import pytest
import torch

from kd_offline.experts.algorithms.ddn import Novelty
from kd_offline.experts.novelty import Moments, RandomDistillation


def drawn(*size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size)).float()


def novelty(**settings):
    given = {"coefficient": 0.01, "width": 8} | settings
    return RandomDistillation(5, Novelty(**given), np.random.default_rng(0))


def test_moments_in_parts_are_those_of_everything():
    rows = 3 * drawn(50, 4) + 7
    moments = Moments(4)
    for part in rows.split([1, 20, 0, 29]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.double().mean(0), rtol=1e-9)
    wanted = (rows - rows.mean(0)) / rows.std(0, unbiased=False)
    torch.testing.assert_close(moments.standardised(rows), wanted, atol=1e-4, rtol=1e-4)


def test_a_number_that_never_changes_is_standardised_to_zero():
    moments = Moments(1)
    moments.add(torch.full((10, 1), 3.0))
    assert moments.standardised(torch.tensor([[3.0]])).item() == 0


def test_the_error_is_that_of_both_networks_and_falls_with_learning():
    model, states = novelty(), drawn(64, 5)
    model.states.add(states)
    x = model.states.standardised(states).clamp(-5, 5)
    by_hand = (model.learned(x) - model.fixed(x)).square().mean(-1)
    torch.testing.assert_close(model.error(states), by_hand)
    first, optimiser = (
        model.error(states).mean().item(),
        torch.optim.Adam(model.learned.parameters(), 1e-2),
    )
    fixed = [p.clone() for p in model.fixed.parameters()]
    for _ in range(50):
        optimiser.zero_grad()
        model.error(states).mean().backward()
        optimiser.step()
    assert model.error(states).mean().item() < 0.2 * first
    assert all(map(torch.equal, fixed, model.fixed.parameters()))
    far = model.error(states + 3).mean().item()
    assert far > 2 * model.error(states).mean().item()


def test_the_scale_of_states_does_not_matter_where_they_are_standardised():
    for standardise, same in ((True, True), (False, False)):
        errors = []
        for scale in (1.0, 30.0):
            model = novelty(standardise_state=standardise)
            model.states.add(scale * drawn(64, 5))
            errors.append(model.error(scale * drawn(64, 5)))
        assert torch.allclose(errors[0], errors[1], rtol=1e-3) is same


def test_the_bonus_is_standardised_scaled_and_fades():
    model = novelty(keep=1.0, frames=100)
    error = torch.tensor([1.0, 2.0, 3.0])
    model.errors.add(error.unsqueeze(-1))
    deviation = float(np.std([1, 2, 3]))
    wanted = 0.01 * np.array([-1, 0, 1]) / deviation
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(model.bonus(error, 0, rng), wanted, atol=1e-6)
    np.testing.assert_allclose(model.bonus(error, 50, rng), wanted / 2, atol=1e-6)
    assert not model.bonus(error, 100, rng).any()
    assert not model.bonus(error, 1000, rng).any()
    raw = novelty(keep=1.0, standardise_bonus=False, frames=100)
    np.testing.assert_allclose(raw.bonus(error, 0, rng), 0.01 * error)


def test_a_bernoulli_mask_keeps_the_stated_share():
    model = novelty(keep=0.25, standardise_bonus=False)
    bonus = model.bonus(torch.ones(4000), 0, np.random.default_rng(1))
    assert len(set(bonus.tolist())) == 2
    assert bonus.max().item() == pytest.approx(0.01)
    assert (bonus > 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
