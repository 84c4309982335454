"""The recorded behaviour: the expert samples its actions, and noise perturbs one agent at a time.

As in DART (Laskey et al., 2017), noise leads the team to states that imperfect students reach,
while every label is the expert's own. Perturbing one agent at a time shows how the others respond
to it. The noise level differs between episodes, so that episodes without noise remain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.distributions.base import Played, either
from kd_offline.rollout.play import Behaviour, Choice
from kd_offline.schemas.dataset import NoiseLevel
from kd_offline.seeding import uniforms
from kd_offline.types import Float32Array, SeedArray, View

RULE = (
    "at every step one agent, drawn uniformly among all, takes a uniformly drawn legal action with "
    "the episode's probability; all others sample from the expert"
)


def episode_levels(seeds: SeedArray, mixture: Sequence[NoiseLevel]) -> Float32Array:
    """Return the noise level of each episode, a function of its seed: float32 [B]."""
    if not mixture:
        return np.zeros(len(seeds), np.float32)
    shares = np.cumsum([entry.share for entry in mixture])
    draws = uniforms(seeds, 0, (1,), "noise level")[:, 0] * shares[-1]
    index = np.minimum(np.searchsorted(shares, draws, side="right"), len(mixture) - 1)
    levels = np.array([entry.level for entry in mixture], np.float32)
    return np.asarray(levels[index], np.float32)


def perturbed(seeds: SeedArray, levels: Float32Array) -> Behaviour:
    """Return the behaviour of episodes with ``seeds`` (uint64 [B]) at ``levels`` (float32 [B]).

    The recorded log probability of an agent's action is that of its marginal mixture:
    ``(1 - level / N) pi + (level / N) uniform``.
    """

    def choose(step: int, view: View, policy: Played) -> Choice:
        n, shape = view.alive.shape[1], policy.numbers
        actions = policy.sample(uniforms(seeds, step, (n, *shape), "action"))
        noise = uniforms(seeds, step, (2 + math.prod(shape),), "noise")
        perturbed_agent = (noise[:, 0] * n).astype(np.int64)
        is_perturbed = (
            (noise[:, 1] < levels)[:, None]
            & (perturbed_agent[:, None] == np.arange(n))
            & view.alive
        )
        if is_perturbed.any():
            numbers = np.repeat(noise[:, None, 2:], n, axis=1).reshape(*is_perturbed.shape, *shape)
            random = policy.even(view.available_actions).sample(numbers)
            actions = either(is_perturbed, random, actions)
        source = np.where(is_perturbed, ACTION_SOURCES["noise"], ACTION_SOURCES["expert"]).astype(
            np.uint8
        )
        mixed = policy.mixture_probability(actions, (levels / n)[:, None])
        logprob = np.log(np.where(view.alive, mixed, 1.0)).astype(np.float32)
        return Choice(actions, logprob, source)

    return choose
