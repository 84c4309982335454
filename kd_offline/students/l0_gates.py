"""Hard-concrete gates on hidden units (Louizos et al., 2018).

Every unit of a trunk layer and of a GRU has a number z in [0, 1] that is 0 with a probability of
its own, drawn from a *hard concrete* distribution (Louizos et al., 2018): a sigmoid of logistic
noise, stretched from (0, 1) to (-0.1, 1.1) and cut off. Its probability of not being 0 is closed
form and differentiable, so expected widths are, and what they cost.

A gate multiplies what others read of a unit. In a GRU these are the columns of the recurrent
matrix and the output; its own leak of memory is left alone, as a product at every step would
shorten the memory to z^t. So a gate of any value can be folded into the weights that read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.networks.arithmetic import StudentShape
from kd_offline.networks.packed import Packed
from kd_offline.students.networks import StudentTeam

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
_SHIFT = TEMPERATURE * math.log(-LOW / HIGH)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Return the probability that a gate is not 0 (Eq. 12)."""
    return torch.sigmoid(log_alpha - _SHIFT)


def log_alpha_of(probability: float) -> float:
    """Return the parameter of a gate that is open with this probability."""
    return math.log(probability / (1 - probability)) + _SHIFT


def settled_gate(log_alpha: Tensor) -> Tensor:
    """Return the value of a gate without noise (Eq. 13)."""
    return _cut(torch.sigmoid(log_alpha))


def drawn_gate(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """Return the value of a gate with logistic ``noise`` (Eqs. 10 and 11)."""
    return _cut(torch.sigmoid((noise + log_alpha) / TEMPERATURE))


def _cut(share: Tensor) -> Tensor:
    return (share * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


class Gates(nn.Module):
    """A gate for every hidden unit of a team; one vector an agent, in the order of its layers."""

    def __init__(self, shapes: Sequence[StudentShape], start: float) -> None:
        super().__init__()
        self.sizes = tuple(shape.units for shape in shapes)
        self.log_alpha = nn.ParameterList(
            nn.Parameter(torch.full((sum(sizes),), log_alpha_of(start))) for sizes in self.sizes
        )
        self._noise = [torch.zeros_like(each) for each in self.log_alpha]

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the noise of the next pass; a batch shares it, as it shares the weights."""
        self._noise = [
            torch.from_numpy(rng.logistic(size=len(each)).astype(np.float32)).to(each.device)
            for each in self.log_alpha
        ]

    def values(self, i: int, *, noisy: bool) -> tuple[Tensor, ...]:
        """Return the gates of an agent's layers, [H] each, drawn or as they settle."""
        log_alpha = self.log_alpha[i]
        value = drawn_gate(log_alpha, self._noise[i]) if noisy else settled_gate(log_alpha)
        return torch.split(value, list(self.sizes[i]))

    def probabilities(self, i: int) -> tuple[Tensor, ...]:
        """Return how probable the units of an agent's layers are, [H] each."""
        return torch.split(open_probability(self.log_alpha[i]), list(self.sizes[i]))


@dataclass(frozen=True, slots=True)
class GatedPass:
    """The forward pass of a team's agents with gates on their units, noisy while it trains."""

    gates: Gates

    def __call__(
        self, team: StudentTeam, i: int, x: Tensor, sizes: list[int], memory: Tensor
    ) -> Packed:
        """Run agent ``i`` over packed ``x`` [S, I]; as its network does, aligner included."""
        gates = self.gates.values(i, noisy=team.training)
        return team.network(i).gated(team.aligners[i](x), sizes, memory, gates)
