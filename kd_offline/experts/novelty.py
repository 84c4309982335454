"""Novelty of states by random network distillation (Burda et al., 2018, arXiv 1810.12894)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.experts.algorithms.ddn import Novelty
from kd_offline.networks.mixers import draw_weights

_LARGEST = 5.0  # standardised feature of a state that the networks are given
_LEAST = 1e-4  # deviation that is divided by


class Moments(nn.Module):
    """Running mean and deviation of rows of ``width`` numbers (Chan et al., 1979)."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, shape in (("count", ()), ("mean", (width,)), ("squares", (width,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """Count in ``rows``: float [R, width]."""
        rows = rows.double()
        if not len(rows):
            return
        total, mean = self.count + len(rows), rows.mean(0)
        gap = mean - self.mean
        self.squares += (rows - mean).square().sum(0) + gap.square() * self.count * len(
            rows
        ) / total
        self.mean += gap * len(rows) / total
        self.count.copy_(total)

    def standardised(self, rows: Tensor) -> Tensor:
        """Return rows less the mean, divided by the deviation: float32 [..., width]."""
        deviation = (self.squares / self.count.clamp(min=1)).sqrt().clamp(min=_LEAST)
        return ((rows - self.mean) / deviation).float()


class RandomDistillation(nn.Module):
    """A fixed random network of the state, one that learns it, and the moments of both.

    ``rng`` draws the weights of both networks.
    """

    def __init__(self, state: int, settings: Novelty, rng: np.random.Generator) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.fixed, self.learned = (
            nn.Sequential(
                nn.Linear(state, width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Linear(width, width),
            )
            for _ in range(2)
        )
        for network in (self.fixed, self.learned):
            draw_weights(network, rng)
        self.fixed.requires_grad_(False)
        self.states, self.errors = Moments(state), Moments(1)

    def error(self, state: Tensor) -> Tensor:
        """Return the mean squared error of the learned network, [...], of ``state`` [..., S]."""
        if self.settings.standardise_state:
            state = self.states.standardised(state).clamp(-_LARGEST, _LARGEST)
        return torch.as_tensor((self.learned(state) - self.fixed(state)).square().mean(-1))

    def bonus(self, error: Tensor, frames: int, rng: np.random.Generator) -> Tensor:
        """Return the bonus of steps with ``error`` [...], after ``frames`` joint steps.

        Each step keeps its bonus with the settings' probability.
        """
        settings = self.settings
        coefficient = settings.coefficient * max(0.0, 1 - frames / settings.frames)
        kept = torch.from_numpy(rng.random(tuple(error.shape)) < settings.keep).to(error.device)
        if settings.standardise_bonus:
            error = self.errors.standardised(error.unsqueeze(-1)).squeeze(-1)
        return coefficient * error * kept
