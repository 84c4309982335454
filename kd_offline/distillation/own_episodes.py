"""A random share of the training episodes for each seed, so that the errors of seeds differ more.

Seeds that learn from the same episodes learn the same mistakes. With ``diverse`` in the recipe each
seed learns from a random share of the training episodes, as members of a subsampled ensemble do
(subagging, Buehlmann and Yu, 2002). What a seed draws follows from the seed alone, so it does not
matter which other seeds a run has. An epoch keeps its number of updates: it goes over the own
episodes as often as that takes.
"""

from __future__ import annotations

import numpy as np

from kd_offline.seeding import generator
from kd_offline.types import IntArray

SHARE = 0.5
"""Share of the training episodes where nothing else is said."""


def own_episodes(count: int, batch: int, seed: int, share: float | None) -> IntArray:
    """Return the episodes of ``count`` that a seed learns from, int64, ascending.

    They are ``share`` of them, and at least a ``batch``; None: all.
    """
    if share is None:
        return np.arange(count)
    taken = min(count, max(batch, round(share * count)))
    return np.sort(generator(seed, "own episodes").permutation(count)[:taken])


def passes_over(own: int, count: int, batch: int) -> int:
    """Return the passes over ``own`` episodes in an epoch of ``count // batch`` updates."""
    return -(-(count // batch) // max(1, own // batch))
