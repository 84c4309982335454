"""Holding a dataset against what came out here, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.format.layout import rule_for
from kd_offline.schemas.environment import EnvironmentSpec, Scalar
from kd_offline.schemas.replay import ArrayGap, Divergence
from kd_offline.types import Array, BoolArray, IntArray

_LATEST = 1 << 62  # sorts what comes after an episode's last step behind all of its steps


@dataclass(slots=True)
class _Gap:
    """Running figures of one array."""

    max_error: float = 0.0
    differing: int = 0
    outside: int = 0


@dataclass(slots=True)
class Comparison:
    """Counts how far arrays are from the stored ones, and keeps the first divergence.

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
        """Compare one row of each of some episodes.

        Parameters
        ----------
        name
            Full name of the array.
        got, stored : [B, ...]
        counts : bool [B] or [B, N]
            What is compared; everything else is meaningless.
        episodes : int64 [B]
            Their indices in the dataset.
        step
            Where in the episodes; None for arrays with one row an episode.
        """
        gap = self._gaps.setdefault(name, _Gap())
        considered = counts.reshape(counts.shape + (1,) * (got.ndim - counts.ndim))
        same = (got == stored) | ~considered
        if same.all():
            return
        exact, number = stored.dtype.kind != "f", np.float64
        error = np.abs(np.subtract(got, stored, dtype=number))
        allowed = 0.0 if exact else self.tolerance * (1 + np.abs(stored, dtype=number))
        bad = ~((error <= allowed) & np.isfinite(error)) & considered
        worst = float(np.where(considered, error, 0.0).max())
        gap.max_error = worst if math.isnan(worst) else max(gap.max_error, worst)
        gap.differing += int((~same).reshape(len(same), -1).any(axis=1).sum())
        gap.outside += int(bad.reshape(len(bad), -1).any(axis=1).sum())
        if bad.any():
            self._remember(name, got, stored, bad, episodes, step)

    def arrays(self) -> dict[str, ArrayGap]:
        """Return the figures of every array that was compared."""
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
        """Tell whether everything was the same to the last bit."""
        return not any(gap.differing for gap in self._gaps.values())

    def _remember(
        self,
        name: str,
        got: Array,
        stored: Array,
        bad: BoolArray,
        episodes: IntArray,
        step: int | None,
    ) -> None:
        place = tuple(int(k) for k in np.argwhere(bad)[0])
        episode = int(episodes[place[0]])
        moment = _LATEST if step is None else step
        key = (episode, moment, list(self._gaps).index(name))
        if self._first_key is not None and key >= self._first_key:
            return
        agent, entry = self._words(name, place[1:])
        self._first_key = key
        self.first = Divergence(
            episode=episode,
            step=step,
            array=name,
            agent=agent,
            entry=entry,
            got=_scalar(got[place]),
            stored=_scalar(stored[place]),
        )

    def _words(self, name: str, place: tuple[int, ...]) -> tuple[str | None, str | None]:
        """Return the agent and the block, action or index of an entry."""
        axes = rule_for(name).axes[1 : 1 + len(place)]
        where = dict(zip(axes, place, strict=True))
        row = where.get("N")
        agent = None if row is None else self.spec.agents[row]
        if agent is not None and "O" in where:
            return agent, self._feature(agent, where["O"])
        if row is not None and "A" in where:
            names = self.spec.action_names[row]
            return agent, names[where["A"]] if where["A"] < len(names) else "padding"
        rest = [index for axis, index in where.items() if axis != "N"]
        return agent, f"entry {rest[0]}" if rest else None

    def _feature(self, agent: str, index: int) -> str:
        for block, ranges in self.spec.blocks[agent].items():
            before = 0
            for start, stop in ranges:
                if start <= index < stop:
                    return f"{block} {before + index - start}"
                before += stop - start
        return "padding"


def _scalar(value: Array) -> Scalar:
    plain: Scalar = value.item()
    return str(plain) if isinstance(plain, float) and not math.isfinite(plain) else plain
