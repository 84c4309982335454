"""Blocks of whole episodes, and their checks before they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.format.chunks import all_finite
from kd_offline.datasets.format.layout import FULL, ArrayRule, axis_sizes, required_arrays, rule_for
from kd_offline.errors import UsageError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array


@dataclass(frozen=True, slots=True)
class EpisodeBlock:
    """Complete episodes, one after the other; names have no group prefix.

    ``steps``: [R, ...] with R the sum of the lengths; ``final`` and ``episodes``: [E, ...].
    ``episodes`` holds at least ``length``; the writer adds offsets, returns and splits. The arrays
    belong to the writer afterwards and must not be changed.
    """

    steps: Mapping[str, Array]
    final: Mapping[str, Array] = field(default_factory=dict)
    episodes: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> EpisodeBlock:
        """Return the block of arrays by their full names."""

        def group(prefix: str) -> dict[str, Array]:
            return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}

        return cls(group("steps/"), group("final/"), group("episodes/"))

    @property
    def lengths(self) -> Array:
        """Steps of each episode, int64 [E]."""
        return np.asarray(self.episodes["length"], dtype=np.int64)

    def flat(self) -> dict[str, Array]:
        """Return the arrays by their full names."""
        groups = {"steps": self.steps, "final": self.final, "episodes": self.episodes}
        return {
            f"{group}/{name}": np.asarray(values)
            for group, arrays in groups.items()
            for name, values in arrays.items()
        }


def check_block(block: EpisodeBlock, spec: EnvironmentSpec, before: int = 0) -> dict[str, Array]:
    """Return the block's arrays by full name, after checking names, shapes, dtypes and values.

    ``before`` is the number of episodes before the block, for messages.

    Raises
    ------
    UsageError
        An array is missing, unknown, of a wrong shape, cannot be cast without loss of meaning, or
        has a value that is not finite.
    """
    arrays = block.flat()
    missing = [
        name for g in ("steps", "episodes") for name in required_arrays(g) if name not in arrays
    ]
    if missing:
        msg = (
            f"a block of episodes needs {', '.join(required_arrays('steps'))} and episodes/length; "
        )
        raise UsageError(msg + f"missing: {', '.join(missing)}")
    if spec.full is not None and not any(name in arrays for name in FULL):
        msg = (
            f"the environment describes full observations, but the block has no {FULL[0]}: give "
            "it, or leave the environment's full out"
        )
        raise UsageError(msg)
    lengths = block.lengths
    if lengths.ndim != 1 or len(lengths) == 0 or lengths.min() < 1:
        msg = "episodes/length must list at least one episode, each of one step or more"
        raise UsageError(msg)
    sizes = axis_sizes(spec, int(lengths.sum()), len(lengths))
    for name, values in arrays.items():
        rule = rule_for(name)
        if rule.derived:
            msg = f"{name} is computed by the writer: leave it out of the block"
            raise UsageError(msg)
        if "F" in rule.axes and "F" not in sizes:
            msg = (
                f"{name} is there, but the environment does not describe full observations: give "
                "the dataset an environment whose full states their widths and blocks"
            )
            raise UsageError(msg)
        _check_array(name, values, rule, sizes)
        if not all_finite(stored := _as_stored(values, rule)):
            raise _not_finite_error(name, stored, spec, lengths, before)
    return arrays


def _check_array(name: str, values: Array, rule: ArrayRule, sizes: Mapping[str, int]) -> None:
    shape = tuple(sizes.get(axis, -1) for axis in rule.axes)
    fits = values.ndim == len(shape) and all(
        actual == expected or (expected == -1 and actual > 0)
        for actual, expected in zip(values.shape, shape, strict=True)
    )
    if not fits or 0 in values.shape:
        axes = ", ".join(f"{axis}={size}" for axis, size in zip(rule.axes, shape, strict=True))
        msg = f"{name} has shape {list(values.shape)}, but [{axes}] is needed (-1: any width)"
        raise UsageError(msg)
    kind = np.dtype(rule.dtypes[0]).kind
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "f"}[kind]
    if values.dtype.kind not in allowed:
        msg = f"{name} has dtype {values.dtype}, but {' or '.join(rule.dtypes)} is needed"
        raise UsageError(msg)


def _as_stored(values: Array, rule: ArrayRule) -> Array:
    """Return floats in the dtype in which they are stored."""
    if values.dtype.kind != "f" or values.dtype.name in rule.dtypes:
        return values
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused
        return values.astype(rule.dtypes[0])


def _not_finite_error(
    name: str, values: Array, spec: EnvironmentSpec, lengths: Array, before: int
) -> UsageError:
    """Return the error that names the first value that is not finite."""
    row, *rest = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
    if name.startswith("steps/"):
        episode = int(np.searchsorted(np.cumsum(lengths), row, side="right"))
        position = f"step {row - int(lengths[:episode].sum())} of episode {before + episode}"
    else:
        position = f"episode {before + row}"
    whose = f" of agent {spec.agents[rest[0]]!r}" if rest and "N" in rule_for(name).axes else ""
    narrow = ", or store it as float32" if values.dtype == np.float16 else ""
    return UsageError(
        f"{name}{whose} has in {position} a value that is not a finite {values.dtype} "
        f"({values[(row, *rest)]}): every stored number must be finite, so correct where it "
        f"comes from{narrow}"
    )
