"""Derived random streams: one for each (seed, purpose), without global state.

:func:`generator` returns a NumPy generator for one consumer. :func:`uniforms` returns counter-based
numbers for whole batches of episodes: the numbers of an episode depend on its seed, the purpose and
the step, and not on the batch that contains it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from kd_offline.types import IntArray, SeedArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _key(*purpose: object) -> int:
    text = "\x1f".join(map(str, purpose)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def generator(seed: int, *purpose: object) -> np.random.Generator:
    """Return a Philox generator for ``(seed, purpose)``; distinct purposes are independent."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _key(*purpose)])))


def derive(seed: int, *purpose: object) -> int:
    """Return a child seed in [0, 2**63) for ``(seed, purpose)``."""
    return int(np.random.SeedSequence([seed, _key(*purpose)]).generate_state(1, np.uint64)[0] >> 1)


def episode_seeds(seed: int, first: int, count: int, *purpose: object) -> SeedArray:
    """Return the seeds of episodes ``first .. first + count``: uint64 [count], below 2**31.

    They stay below 2**31 because several environments accept no wider seed. An episode's seed
    depends on its index alone, so a recording can be continued or split over workers.
    """
    index = np.arange(first, first + count, dtype=np.uint64)
    base = np.uint64(derive(seed, "episodes", *purpose))
    return _mix(_mix(index * _GOLDEN + base)) >> np.uint64(33)


def uniforms(
    seeds: SeedArray, step: int | IntArray, shape: tuple[int, ...], *purpose: object
) -> npt.NDArray[np.float64]:
    """Return uniform numbers in [0, 1): float64 [B, *shape], a function of (seed, step, purpose).

    ``step`` is one number, or one for each seed: int [B]. SplitMix64 finalisers over a counter
    (Steele et al., 2014), exact on every platform.
    """
    size = int(np.prod(shape, dtype=np.int64))
    # As an array even for a single number: NumPy scalars warn on overflow, arrays wrap around.
    offset = np.atleast_1d(step).astype(np.uint64) * _GOLDEN
    stream = _mix(_mix(seeds ^ np.uint64(_key(*purpose))) + offset)
    counter = np.arange(1, size + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(stream[:, None] + counter[None, :])
    unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit.reshape(len(seeds), *shape)


def normals(
    seeds: SeedArray, step: int | IntArray, shape: tuple[int, ...], *purpose: object
) -> npt.NDArray[np.float64]:
    """Return standard normal numbers, float64 [B, *shape], made of those of :func:`uniforms`.

    By the transform of Box and Muller (1958), so the last bit may depend on the platform.
    """
    draws = uniforms(seeds, step, (2, *shape), *purpose)
    radius, angle = np.sqrt(-2.0 * np.log1p(-draws[:, 0])), 2.0 * np.pi * draws[:, 1]
    return np.asarray(radius * np.cos(angle))


def _mix(x: SeedArray) -> SeedArray:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))
