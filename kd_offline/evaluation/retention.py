"""Retention in three ways, each a quotient of means with its paired interval.

With mean returns of the student S, the expert E, uniformly random play R, and the ceiling C (the
best known policy under the student's mask, trained directly by reinforcement learning):

- ``ratio`` = win rate of S / win rate of E, where the task has wins. It is never computed from
  returns, because a ratio of returns depends on where their zero is.
- ``normalised`` = (S - R) / (E - R).
- ``of_ceiling`` = (S - R) / (C - R).

A quotient is None where its denominator is not significantly above zero (the lower end of its 95 %
interval is not positive).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_offline.errors import MismatchError
from kd_offline.evaluation.intervals import Interval, quotient_interval, rate_quotient
from kd_offline.types import FloatArray

_F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Samples:
    """Results of each policy on the same evaluation seeds.

    Every field is float64 [K, E]: a row for each training seed (one row where the policy has
    none), a column for each evaluation seed. ``*_won`` are 0 or 1, or None where the task has no
    wins.
    """

    expert: _F64
    student: _F64
    random: _F64
    ceiling: _F64 | None = None
    expert_won: _F64 | None = None
    student_won: _F64 | None = None

    def __post_init__(self) -> None:
        widths = {
            name: value.shape
            for name in self.__slots__
            if (value := getattr(self, name)) is not None
        }
        if len({shape[-1] for shape in widths.values()}) != 1 or any(
            len(shape) != 2 for shape in widths.values()
        ):
            msg = (
                f"figures of shapes {widths} cannot be compared: "
                "give [K, E] of the same E evaluation seeds for every policy"
            )
            raise MismatchError(msg)


@dataclass(frozen=True, slots=True)
class Retention:
    """The three retentions; None where undefined or not asked for."""

    ratio: Interval | None
    normalised: Interval | None
    of_ceiling: Interval | None


def retention(samples: Samples) -> Retention:
    """Return the three retentions of the student."""
    student, expert, random, ceiling = (
        samples.student,
        samples.expert,
        samples.random,
        samples.ceiling,
    )
    won, expert_won = samples.student_won, samples.expert_won
    return Retention(
        ratio=None if won is None or expert_won is None else rate_quotient(won, expert_won),
        normalised=quotient_interval(student - random, expert - random),
        of_ceiling=(
            None if ceiling is None else quotient_interval(student - random, ceiling - random)
        ),
    )


def normalised_of(student: FloatArray, expert: FloatArray, random: FloatArray) -> float | None:
    """Return (S - R) / (E - R) of the means, or None where the mean of E is not above that of R."""
    expert_gain = float(np.mean(expert) - np.mean(random))
    return float((np.mean(student) - np.mean(random)) / expert_gain) if expert_gain > 0 else None


def add_sides(sides: Sequence[Samples]) -> Samples:
    """Return the sum of all sides' results, each side played against the expert's other sides.

    With one side this is that side. With several sides wins are left out, because a win of one
    side is a loss of another.
    """
    if len(sides) == 1:
        return sides[0]
    ceilings = [side.ceiling for side in sides if side.ceiling is not None]
    return Samples(
        expert=_sum([side.expert for side in sides]),
        student=_sum([side.student for side in sides]),
        random=_sum([side.random for side in sides]),
        ceiling=_sum(ceilings) if len(ceilings) == len(sides) else None,
    )


def _sum(parts: Sequence[_F64]) -> _F64:
    return np.asarray(np.sum(np.stack(parts), axis=0), np.float64)
