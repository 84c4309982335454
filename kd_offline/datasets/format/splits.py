"""The part that each episode belongs to, and the detection of equal episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kd_offline.datasets.format.layout import SPLITS
from kd_offline.seeding import generator
from kd_offline.types import Array, IntArray

IDENTITY = ("seed", "expert_id", "noise_level")
"""Columns of the episode table that determine everything that happens in an episode."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The part of every episode: codes uint8 [E], and the code of each part by its name."""

    codes: Array
    names: Mapping[str, int]


def assign_split(episodes: int, heldout: float, seed: int) -> Array:
    """Return a random split code for each episode, uint8 [E].

    Parameters
    ----------
    episodes
        Number of episodes.
    heldout
        Share that is held out. Of two episodes or more at least one is held out, unless it is 0.
    seed
        The codes are a function of it and of the other arguments.
    """
    codes = np.full(episodes, SPLITS["train"], dtype=np.uint8)
    if heldout > 0 and episodes > 1:
        count = min(episodes - 1, max(1, round(episodes * heldout)))
        chosen = generator(seed, "split").permutation(episodes)[:count]
        codes[chosen] = SPLITS["heldout"]
    return codes


def drawn_split(episodes: int, heldout: float, seed: int, identity: Mapping[str, Array]) -> Array:
    """Return the split codes of a recording, uint8 [E].

    As :func:`assign_split`, but copies of one episode get one code, held out if any is.
    ``identity`` has the columns :data:`IDENTITY` that there are, each [E].
    """
    codes = assign_split(episodes, heldout, seed)
    if "seed" not in identity:
        return codes
    alike = first_equal_row(*(identity[name] for name in IDENTITY if name in identity))
    np.maximum.at(codes, alike, codes)
    return codes[alike]


def first_equal_row(*columns: Array) -> IntArray:
    """Return for each row the index of the first row with the same ``columns``, int64 [E]."""
    order = np.lexsort(columns)  # stable: equal rows stay in their order
    starts = np.zeros(len(order), dtype=bool)
    starts[:1] = True
    for values in columns:
        starts[1:] |= values[order][1:] != values[order][:-1]
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first
