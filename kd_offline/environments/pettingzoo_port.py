"""Read the values that a PettingZoo environment returns for one agent, and check each of them.

Nothing is guessed: a value that does not fit the agent's spaces, or that is no known mask of legal
actions, is an :class:`UnfitError` that states what was got and what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_offline.types import Array, BoolArray

MASKS = ("action_mask", "avail_actions", "available_actions")
"""Keys of an observation or of infos under which a mask of legal actions is read."""

METHODS = ("action_mask", "action_masks", "get_action_mask", "get_avail_actions", "legal_actions")
"""Methods by which environments of other interfaces say what is legal; they are not called."""

_LARGEST = float(np.finfo(np.float32).max)

# Other names for what is legal come as lists of indices, as costs, or say what is forbidden.
_OTHER_MASK = re.compile(
    r"((action|move)s?_?masks?|(il|in)?(legal|valid|avail|available|allowed|forbidden|possible)"
    r"_?(action|move)s?(_?masks?)?)",
    re.IGNORECASE,
)


class UnfitError(ValueError):
    """A value of an environment contradicts its spaces or PettingZoo's interface."""


@dataclass(frozen=True, slots=True)
class Port:
    """How one agent's observations and actions are converted; spaces are gymnasium's.

    ``agent`` is the name in files, ``key`` the environment's own. ``space`` is
    ``observation_space`` without a mask of legal actions; ``keyed`` is True if it has keys.
    """

    agent: str
    key: Any
    observation_space: Any
    action_space: Any
    space: Any
    keyed: bool
    blocks: dict[str, tuple[tuple[int, int], ...]]
    width: int

    @property
    def n_actions(self) -> int:
        """Number of actions."""
        return int(self.action_space.n)

    @property
    def first_action(self) -> int:
        """The environment's number of our action 0."""
        return int(self.action_space.start)

    def flatten(self, observation: Any) -> Array:
        """Return ``observation`` as a flat float32 row [width].

        Raises
        ------
        UnfitError
            It does not fit the space, or holds numbers that float32 cannot.
        """
        if self.keyed and isinstance(observation, Mapping):
            observation = {k: v for k, v in observation.items() if k not in MASKS}
        parts = list(_flat(self.space, observation, "the observation"))
        with np.errstate(over="ignore"):
            row = np.concatenate([part.astype(np.float32) for part in parts])
        if not np.isfinite(row).all():
            at = int(np.argmin(np.isfinite(row)))
            msg = (
                f"number {at} of its {self.width} is {row[at]} as float32: finite numbers are "
                "expected"
            )
            raise UnfitError(msg)
        return row

    def legal(self, observation: Any, info: Mapping[str, Any]) -> BoolArray | None:
        """Return the legal actions, bool [n_actions]; None without a mask.

        Raises
        ------
        UnfitError
            What is there is no vector of zeros (illegal) and ones (legal), or two disagree.
        """
        found: tuple[str, BoolArray] | None = None
        places = [("infos", info)]
        if self.keyed and isinstance(observation, Mapping):
            places.insert(0, ("the observation", observation))
        for place, values in places:
            for key in MASKS:
                if key not in values:
                    continue
                name = f"{key!r} in {place}"
                mask = _mask(values[key], self.n_actions, name)
                if found is not None and not np.array_equal(mask, found[1]):
                    msg = f"{found[0]} and {name} do not allow the same actions"
                    raise UnfitError(msg)
                found = found or (name, mask)
        if found is None and (other := other_mask(info)):
            raise UnfitError(unread(other, "infos"))
        return None if found is None else found[1]


def mask_key(names: Iterable[Any]) -> str | None:
    """Return the first of ``names`` that names legal actions, read or not; None without one."""
    text = (name for name in names if isinstance(name, str))
    return next((name for name in text if name in MASKS or _OTHER_MASK.fullmatch(name)), None)


def other_mask(names: Iterable[Any]) -> str | None:
    """Return a name of legal actions that is not read; None if there is none."""
    return mask_key(name for name in names if name not in MASKS)


def nested_mask(space: Any) -> str | None:
    """Return a key of legal actions in a nested space, where none is read; else None."""
    from gymnasium import spaces

    nested = isinstance(space, spaces.Dict | spaces.Tuple)
    parts = (space.spaces.values() if isinstance(space, spaces.Dict) else space) if nested else ()
    for part in parts:
        found = None
        if isinstance(part, spaces.Dict):
            found = mask_key(part.spaces)
        if found := found or nested_mask(part):
            return found
    return None


def unread(key: str, place: str) -> str:
    """Return the sentence about a key that :func:`other_mask` found."""
    return (
        f"its {place} say what is legal as {key!r}, which is not read: give 'action_mask', a 1 for "
        "every legal action and a 0 for every other"
    )


def number(value: Any, what: str) -> float:
    """Return a finite number; :class:`UnfitError` for anything else."""
    if isinstance(value, float) and abs(value) <= _LARGEST:  # most are
        return float(value)
    array = _array(value)
    if array is None or array.ndim or array.dtype.kind not in "biuf":
        msg = f"{what} is {shown(value)}: one number is expected"
        raise UnfitError(msg)
    with np.errstate(over="ignore"):
        if not np.isfinite(array.astype(np.float32)):
            msg = f"{what} is {shown(value)}: a finite number that float32 holds is expected"
            raise UnfitError(msg)
    return float(array)


def flag(value: Any, what: str) -> bool:
    """Return a truth value; :class:`UnfitError` for anything else."""
    if isinstance(value, bool | np.bool_):  # most are
        return bool(value)
    array = _array(value)
    if array is None or array.ndim or array.dtype.kind not in "biuf" or array not in (0, 1):
        msg = f"{what} is {shown(value)}: True or False is expected"
        raise UnfitError(msg)
    return bool(array)


def shown(value: Any) -> str:
    """Return a short text for a value of unknown type."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and np.prod(shape, dtype=float) > 8:
        return f"an array of shape {shape} and type {getattr(value, 'dtype', '?')}"
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"


def _mask(value: Any, count: int, name: str) -> BoolArray:
    mask = _array(value)
    fits = mask is not None and mask.shape == (count,) and mask.dtype.kind in "biuf"
    if mask is None or not fits or not np.isin(mask, (0, 1)).all():
        msg = (
            f"{name} is {shown(value)}: a vector of {count} numbers is expected, 1 for a legal "
            "action and 0 for every other"
        )
        raise UnfitError(msg)
    return mask.astype(bool)


def _flat(space: Any, value: Any, what: str) -> Iterator[Array]:
    """Yield the flat parts of ``value``, as gymnasium does; :class:`UnfitError` if impossible."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            msg = f"{what} is {shown(value)}: a dict is expected, as its space is one"
            raise UnfitError(msg)
        parts = space.spaces
        if wrong := [*(k for k in parts if k not in value), *(k for k in value if k not in parts)]:
            has = "lacks" if wrong[0] in parts else "has"
            msg = f"{what} {has} the key {wrong[0]!r}: its space has {', '.join(map(repr, parts))}"
            raise UnfitError(msg)
        for key, part in parts.items():
            yield from _flat(part, value[key], f"{what}'s {key!r}")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space):
            msg = f"{what} is {shown(value)}: a tuple of {len(space)} is expected, as its space is"
            raise UnfitError(msg)
        for index, part in enumerate(space):
            yield from _flat(part, value[index], f"{what}'s part {index}")
    elif isinstance(space, spaces.Box):
        array = _array(value)
        if array is None or array.shape != space.shape or array.dtype.kind not in "biuf":
            msg = f"{what} is {shown(value)}: numbers of shape {space.shape} are expected"
            raise UnfitError(msg)
        yield array.ravel()
    elif not space.contains(value):
        msg = f"{what} is {shown(value)}: a value of {space} is expected"
        raise UnfitError(msg)
    else:
        yield np.asarray(spaces.flatten(space, value))


def _array(value: Any) -> Array | None:
    """Return ``value`` as an array; None if that is impossible, as for a ragged list."""
    try:
        return np.asarray(value)
    except Exception:  # of the value's own conversion
        return None
