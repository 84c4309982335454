"""Interpret arrays of other formats: actions, legal actions and flags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_offline.datasets.convert.interchange import foreign_error
from kd_offline.schemas.dataset_outputs import NotHeld
from kd_offline.types import Array, BoolArray, IntArray

MASK_NAMES = (
    "action_mask",
    "action_masks",
    "actions_mask",
    "available_actions",
    "avail_actions",
    "legal_actions",
    "legal_moves",
    "legals",
    "valid_actions",
    "valid_action_mask",
)
"""Usual names of legal actions, in which a 1 is a legal action."""

_WHOLE_FLOATS = 1 << 24
"""float32 holds every whole number up to this."""


def discrete_actions(path: Path, name: str, values: Array) -> IntArray:
    """Return discrete actions as int64, from any type of number.

    Raises
    ------
    ForeignError
        A value is not a whole number, so the actions are continuous.
    """
    if values.dtype.kind == "f":
        is_whole = np.isfinite(values) & (np.trunc(values) == values)
        if not is_whole.all():
            what = f"{name} are continuous ({values.dtype}, {values[~is_whole][0]:g} is among them)"
            raise foreign_error(path, what, "only discrete actions can be distilled")
        if np.abs(values).max(initial=0) > _WHOLE_FLOATS:
            raise foreign_error(
                path, f"{name} hold {values.max():g}, which is no number of an action"
            )
    return values.astype(np.int64)


def is_one_hot(values: Array) -> bool:
    """Tell whether every row of ``values`` [..., A] has a single 1, and 0 elsewhere."""
    ones = values == 1
    return bool(values.shape[-1] > 1 and (ones | (values == 0)).all() and (ones.sum(-1) == 1).all())


def boolean_array(path: Path, name: str, values: Array) -> BoolArray:
    """Return flags that may be stored as numbers, as booleans.

    Raises
    ------
    ForeignError
        There are others than zeros and ones.
    """
    return _zeros_and_ones(path, name, values, "true or false")


def legal_actions(path: Path, name: str, values: Array) -> BoolArray:
    """Return legal actions that may be stored as numbers, as booleans.

    Raises
    ------
    ForeignError
        There are others than zeros and ones, so what is legal is not known.
    """
    return _zeros_and_ones(path, name, values, "1 for a legal action and 0 for another")


def _zeros_and_ones(path: Path, name: str, values: Array, meaning: str) -> BoolArray:
    invalid = (values != 0) & (values != 1)
    if invalid.any():
        what = f"{name} hold {values[invalid][0]:g}, where {meaning} is expected"
        raise foreign_error(path, what, "write it so, or leave it out of the file")
    flags: BoolArray = values == 1
    return flags


@dataclass(slots=True)
class LegalityCount:
    """Counts executed actions that are illegal by the mask at ``name``."""

    name: str
    executed: int = 0
    illegal: int = 0

    def add(self, legal: BoolArray, actions: IntArray) -> None:
        """Add executed actions [...] and the mask [..., A]."""
        taken = np.take_along_axis(legal, actions[..., None], axis=-1)
        self.executed += taken.size
        self.illegal += int((~taken).sum())

    def check(self, path: Path) -> None:
        """Raise if the mask cannot be one of legal actions.

        Raises
        ------
        ForeignError
            More executed actions are illegal by it than legal.
        """
        if 2 * self.illegal > self.executed:
            what = (
                f"by {self.name}, {self.illegal} of {self.executed} executed actions are illegal, "
                "so it marks illegal actions or belongs to other steps"
            )
            raise foreign_error(path, what, "correct it, or leave it out of the file")

    def not_held(self) -> list[NotHeld]:
        """Return the loss of making illegal executed actions legal."""
        if not self.illegal:
            return []
        why = f"{self.illegal} executed actions were not legal by it, and were made legal"
        return [NotHeld(array=self.name, why=why)]


def with_executed_legal(legal: BoolArray, actions: IntArray) -> BoolArray:
    """Return ``legal`` [..., A] in which the executed ``actions`` [...] are legal too."""
    out = legal.copy()
    np.put_along_axis(out, actions[..., None], True, axis=-1)
    return out


def find_mask_name(names: Iterable[str]) -> str | None:
    """Return the first usual name of legal actions among ``names``, or None."""
    there = set(names)
    return next((name for name in MASK_NAMES if name in there), None)


def loses_precision(values: Array) -> bool:
    """Tell whether float32 cannot hold some of ``values``."""
    return bool((values != values.astype(np.float32)).any())
