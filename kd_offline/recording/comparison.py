"""Compare stored arrays of a dataset with recomputed ones, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.format.layout import rule_for
from kd_offline.schemas.environment import EnvironmentSpec, Scalar
from kd_offline.schemas.replay import ArrayGap, Divergence
from kd_offline.types import Array, BoolArray, IntArray

_AFTER_STEPS = 1 << 62  # sort key of arrays without steps: after all steps of the episode


@dataclass(slots=True)
class _Gap:
    """Running differences of one array."""

    max_error: float = 0.0
    differing: int = 0
    outside: int = 0


@dataclass(slots=True)
class Comparison:
    """Measures how far recomputed arrays are from the stored ones, and keeps the first divergence.

    Numbers agree within ``tolerance``, absolute and relative to the stored value; booleans and
    integers agree exactly.
    """

    spec: EnvironmentSpec
    tolerance: float
    first: Divergence | None = None
    _gaps: dict[str, _Gap] = field(default_factory=dict)
    _first_key: tuple[int, int, int] | None = None

    def add(
        self,
        name: str,
        got: Array,
        stored: Array,
        counts: BoolArray,
        episodes: IntArray,
        step: int | None = None,
    ) -> None:
        """Compare one row of an array for each of several episodes.

        Parameters
        ----------
        name
            Full name of the array.
        got, stored : [B, ...]
        counts : bool [B] or [B, N]
            Entries to compare.
        episodes : int64 [B]
            Their indices in the dataset.
        step
            Index of the step; None for arrays with one row for each episode.
        """
        gap = self._gaps.setdefault(name, _Gap())
        compared = counts.reshape(counts.shape + (1,) * (got.ndim - counts.ndim))
        equal = (got == stored) | ~compared
        if equal.all():
            return
        exact, float_type = stored.dtype.kind != "f", np.float64
        error = np.abs(np.subtract(got, stored, dtype=float_type))
        allowed = 0.0 if exact else self.tolerance * (1 + np.abs(stored, dtype=float_type))
        outside = ~((error <= allowed) & np.isfinite(error)) & compared
        worst = float(np.where(compared, error, 0.0).max())
        gap.max_error = worst if math.isnan(worst) else max(gap.max_error, worst)
        gap.differing += int((~equal).reshape(len(equal), -1).any(axis=1).sum())
        gap.outside += int(outside.reshape(len(outside), -1).any(axis=1).sum())
        if outside.any():
            self._keep_first(name, got, stored, outside, episodes, step)

    def arrays(self) -> dict[str, ArrayGap]:
        """Return the differences of every array that was compared."""
        return {
            name: ArrayGap(
                max_error=gap.max_error if math.isfinite(gap.max_error) else None,
                differing=gap.differing,
                outside=gap.outside,
                ok=not gap.outside,
            )
            for name, gap in self._gaps.items()
        }

    @property
    def exact(self) -> bool:
        """True if everything was equal to the last bit."""
        return not any(gap.differing for gap in self._gaps.values())

    def _keep_first(
        self,
        name: str,
        got: Array,
        stored: Array,
        outside: BoolArray,
        episodes: IntArray,
        step: int | None,
    ) -> None:
        index = tuple(int(k) for k in np.argwhere(outside)[0])
        episode = int(episodes[index[0]])
        position = _AFTER_STEPS if step is None else step
        key = (episode, position, list(self._gaps).index(name))
        if self._first_key is not None and key >= self._first_key:
            return
        agent, entry = self._entry_names(name, index[1:])
        self._first_key = key
        self.first = Divergence(
            episode=episode,
            step=step,
            array=name,
            agent=agent,
            entry=entry,
            got=_scalar(got[index]),
            stored=_scalar(stored[index]),
        )

    def _entry_names(self, name: str, place: tuple[int, ...]) -> tuple[str | None, str | None]:
        """Return the agent and the block, action or index of an entry."""
        axes = rule_for(name).axes[1 : 1 + len(place)]
        by_axis = dict(zip(axes, place, strict=True))
        row = by_axis.get("N")
        agent = None if row is None else self.spec.agents[row]
        for axis, seen in (("O", self.spec), ("F", self.spec.full)):
            if agent is not None and axis in by_axis and seen is not None:
                return agent, _feature_name(seen.blocks[agent], by_axis[axis])
        if row is not None and "A" in by_axis:
            names = self.spec.action_names[row]
            return agent, names[by_axis["A"]] if by_axis["A"] < len(names) else "padding"
        other_indices = [index for axis, index in by_axis.items() if axis != "N"]
        return agent, f"entry {other_indices[0]}" if other_indices else None


def _feature_name(blocks: Mapping[str, Sequence[tuple[int, int]]], index: int) -> str:
    """Return the block of a feature, and its place in it."""
    for block, ranges in blocks.items():
        offset = 0
        for start, stop in ranges:
            if start <= index < stop:
                return f"{block} {offset + index - start}"
            offset += stop - start
    return "padding"


def _scalar(value: Array) -> Scalar:
    scalar: Scalar = value.item()
    return str(scalar) if isinstance(scalar, float) and not math.isfinite(scalar) else scalar
