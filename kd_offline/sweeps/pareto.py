"""Which points no other point beats (Pareto, 1906)."""

from __future__ import annotations

from collections.abc import Sequence


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether ``a`` is nowhere worse than ``b`` and somewhere better; less is better."""
    pairs = list(zip(a, b, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Return for every point whether none dominates it; equal points stay together."""
    return [not any(dominates(other, mine) for other in costs) for mine in costs]
