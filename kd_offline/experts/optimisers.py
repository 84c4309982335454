"""The optimisers of Q-learning."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kd_offline.experts.algorithms.mixed_values import OptimiserName


def new_optimiser(
    name: OptimiserName, parameters: Iterable[Tensor], rate: float
) -> torch.optim.Optimizer:
    """Return Adam, or RMSprop with the constants of PyMARL; both divide by at least 1e-5."""
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, rate, alpha=0.99, eps=1e-5)
    return torch.optim.Adam(parameters, rate, eps=1e-5)
