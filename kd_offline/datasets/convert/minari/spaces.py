"""Parse Minari's spaces in JSON, and convert values of such spaces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.foreign_arrays import MASK_NAMES, discrete_actions
from kd_offline.datasets.convert.interchange import foreign_error
from kd_offline.types import Array

Space = Mapping[str, Any]
_SMALL_IMAGE = 32  # Minari stores smaller ones as numbers
_WHAT_IS_READ = "only vector observations and discrete actions are read"


@dataclass(frozen=True, slots=True)
class ObservationPart:
    """One array of an observation: its path below the agent's, and its width."""

    path: str  # empty: the agent's whole observation
    width: int
    levels: int = 0  # one-hot features of a discrete observation; 0: numbers
    first: int = 0
    coded: bool = False  # several discrete values, kept as numbers


@dataclass(frozen=True, slots=True)
class AgentSpace:
    """The layout of one agent's data; ``key`` is empty if there is one agent."""

    name: str
    key: str
    parts: tuple[ObservationPart, ...]
    actions: int
    first_action: int
    mask: str | None = None  # path of the legal actions below the agent's observation
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Observation width."""
        return sum(part.width for part in self.parts)

    @property
    def blocks(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Observation blocks by name: the keys of a dictionary, or ``all``."""
        blocks: dict[str, tuple[tuple[int, int], ...]] = {}
        start = 0
        for part in self.parts:
            blocks[part.path.replace("/", ".") or "all"] = ((start, start + part.width),)
            start += part.width
        return blocks


def agents_of(path: Path, metadata: Mapping[str, Any]) -> tuple[AgentSpace, ...]:
    """Return the agents that the spaces of a dataset describe.

    If both spaces are dictionaries or tuples with the same keys, the keys are the agents.

    Raises
    ------
    ForeignError
        There are images, texts, continuous or several actions, or no spaces at all.
    """
    observed, acted = (_space(path, metadata, f"{n}_space") for n in ("observation", "action"))
    keys = list(_members(acted))
    if not keys:
        return (_agent(path, "agent_0", "", observed, acted),)
    if keys != list(_members(observed)):
        raise foreign_error(
            path, "its observation and action spaces are not of the same agents", _WHAT_IS_READ
        )
    observation_spaces, action_spaces = _members(observed), _members(acted)
    return tuple(
        _agent(path, key.removeprefix("_index_"), key, observation_spaces[key], action_spaces[key])
        for key in keys
    )


def features(path: Path, part: ObservationPart, values: Array) -> Array:
    """Return stored values [T, ...] as features, float32 [T, width].

    Raises
    ------
    ForeignError
        A discrete value is none of its space.
    """
    if part.levels:
        chosen = discrete_actions(path, "discrete observations", values.reshape(-1, 1)) - part.first
        if chosen.min() < 0 or chosen.max() >= part.levels:
            raise foreign_error(
                path, f"a discrete observation ({part.path}) is outside of its space"
            )
        return np.asarray(chosen == np.arange(part.levels), np.float32)
    return values.reshape(len(values), part.width).astype(np.float32)


def _space(path: Path, metadata: Mapping[str, Any], key: str) -> Space:
    try:
        space = json.loads(metadata[key])
    except LookupError:
        raise foreign_error(path, f"its metadata.json has no {key}", _WHAT_IS_READ) from None
    except (ValueError, TypeError, RecursionError):
        raise foreign_error(path, f"{key} in its metadata.json is damaged") from None
    if not isinstance(space, dict):
        raise foreign_error(path, f"{key} in its metadata.json is damaged")
    return space


def _members(space: Space) -> dict[str, Space]:
    inside = space.get("subspaces")
    if isinstance(inside, list):
        return {f"_index_{k}": member for k, member in enumerate(inside)}
    return dict(inside) if isinstance(inside, dict) else {}


def _agent(path: Path, name: str, key: str, observed: Space, acted: Space) -> AgentSpace:
    if acted.get("type") != "Discrete":
        kind = acted.get("type")
        raise foreign_error(
            path, f"the actions of {name} are of a {kind} space, not Discrete", _WHAT_IS_READ
        )
    count, parts = int(acted["n"]), tuple(_parts(path, observed, ""))
    mask_candidates = {
        part.path: part for part in parts if part.path.rpartition("/")[2] in MASK_NAMES
    }
    masks = [
        candidate
        for candidate, part in mask_candidates.items()
        if part.width == count and not part.levels
    ]
    if len(masks) > 1:
        what = f"the observation of {name} has several masks of legal actions: {', '.join(masks)}"
        raise foreign_error(path, what, "leave one of them in the file")
    observation_parts = tuple(part for part in parts if part.path not in masks)
    if not observation_parts:
        raise foreign_error(
            path, f"{name} observes nothing beside its mask of legal actions", _WHAT_IS_READ
        )
    notes = [
        f"observations/{candidate} of {name} is not as wide as there are actions: it stays a "
        "feature"
        for candidate in mask_candidates
        if candidate not in masks
    ]
    notes += [
        f"observations of {name} of a MultiDiscrete space count as numbers"
        for part in observation_parts
        if part.coded
    ]
    return AgentSpace(
        name=f"agent_{name}" if name.isdigit() else name,
        key=key,
        parts=observation_parts,
        actions=count,
        first_action=int(acted.get("start", 0)),
        mask=masks[0] if masks else None,
        notes=tuple(dict.fromkeys(notes)),
    )


def _parts(path: Path, space: Space, where: str) -> list[ObservationPart]:
    members = _members(space)
    if members:
        below = ((f"{where}/{key}".strip("/"), member) for key, member in sorted(members.items()))
        return [part for name, member in below for part in _parts(path, member, name)]
    kind = space.get("type")
    if kind == "Discrete":
        levels = int(space["n"])
        return [ObservationPart(where, levels, levels, int(space.get("start", 0)))]
    if kind == "MultiBinary":
        return [ObservationPart(where, int(np.prod(space["n"])))]
    shape = space.get("shape") or ([np.size(space["nvec"])] if kind == "MultiDiscrete" else [1])
    if kind not in ("Box", "MultiDiscrete") or _is_image(space, shape):
        what = "images" if kind == "Box" else f"a {kind} space"
        raise foreign_error(path, f"observations hold {what}", _WHAT_IS_READ)
    coded = kind == "MultiDiscrete" and bool((np.asarray(space["nvec"]) > 2).any())
    return [ObservationPart(where, int(np.prod(shape)), coded=coded)]


def _is_image(space: Space, shape: list[int]) -> bool:
    """Tell whether Minari stores values of this space as JPEG files."""
    return space.get("dtype") == "uint8" and len(shape) in (2, 3) and min(shape[:2]) >= _SMALL_IMAGE
