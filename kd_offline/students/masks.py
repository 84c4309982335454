"""Observation masks: the features of its agent's observation that each student sees.

Masks are written in block names (``own_velocity``, ``landmarks``), never in indices, so that one
mask means the same thing wherever a block sits.

``full``
    everything.
``limited``, ``paper``
    bundled for most tasks, see ``mask_presets.toml``.
``random-k``
    a fresh random subset of features in every episode, between 4/9 and 5/9 of an agent's width:
    8 to 10 of 18 as in the KD-MARL paper's text, proportionally fewer for a narrower agent.
``random-<k>``
    the same with exactly ``k`` features, or all of a narrower agent's.
a path
    a TOML file with a table ``[agents]``: agent -> list of blocks.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from kd_offline import seeding
from kd_offline.errors import MismatchError, UnknownNameError, UsageError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.mask import MaskFile, MaskPreset, PresetForEnvironment
from kd_offline.types import BoolArray, IntArray, SeedArray

_RANDOM = re.compile(r"random-(k|[1-9][0-9]*)")
_HINT = "or give a .toml file that lists each agent's blocks under [agents]"


@dataclass(frozen=True, slots=True)
class Mask:
    """Visible features of the students: True is visible, padding is False.

    ``static`` (bool [N, O]) holds for every episode. When it is None the mask is drawn for each
    episode: ``random_k`` features an agent, or between 4/9 and 5/9 of them when that is None.
    """

    name: str
    static: BoolArray | None
    random_k: int | None
    description: str
    widths: tuple[int, ...]
    seed: int = 0

    def for_episodes(self, seeds: SeedArray) -> BoolArray:
        """Return the mask of episodes with ``seeds`` (uint64 [E]): bool [N, O] or [E, N, O].

        A drawn mask depends on the mask's seed and the episode's own, on nothing else.
        """
        if self.static is not None:
            return self.static
        agents, widest = len(self.widths), max(self.widths)
        draws = seeding.uniforms(seeds, 0, (agents, widest + 1), "mask", self.seed)
        score, draw = draws[..., :widest], draws[..., widest]
        score[:, np.arange(widest) >= np.array(self.widths)[:, None]] = np.inf
        rank = score.argsort(axis=-1).argsort(axis=-1)
        visible: BoolArray = rank < self._counts(draw)[..., None]
        return visible

    def _counts(self, draw: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> IntArray:
        widths = np.array(self.widths)
        if self.random_k is not None:
            return np.broadcast_to(np.minimum(self.random_k, widths), draw.shape)
        low = np.maximum(1, np.rint(widths * 8 / 18))
        high = np.rint(widths * 10 / 18)
        counts: IntArray = (low + np.floor(draw * (high - low + 1))).astype(np.int64)
        return counts


def names_for(spec: EnvironmentSpec) -> list[str]:
    """Return the names of the masks that exist for ``spec``."""
    bundled = [name for name, preset in _presets().items() if _choice(preset, spec.id)]
    return ["full", *bundled, "random-k"]


def resolve(name_or_path: str, spec: EnvironmentSpec, *, seed: int = 0) -> Mask:
    """Return the mask called ``name_or_path``, or read from that TOML file, for ``spec``.

    ``seed`` picks another sequence of random masks; masks with fixed blocks ignore it.

    Raises
    ------
    UnknownNameError
        The mask, or an agent or block in the file, does not exist.
    UsageError
        The file cannot be read or leaves out an agent.
    MismatchError
        The file is for another environment.
    """
    name = name_or_path
    if name == "full":
        real = np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]
        return Mask(name, real, None, "everything is visible", spec.obs_widths)
    if name in _presets():
        return _preset(name, spec)
    if match := _RANDOM.fullmatch(name):
        exact = None if match[1] == "k" else int(match[1])
        count = exact or "4/9 to 5/9 of the"
        text = f"{count} features of each agent, drawn anew in every episode"
        return Mask(name, None, exact, text, spec.obs_widths, seed)
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return _from_file(Path(name), spec)
    raise UnknownNameError(what="mask", got=name, allowed=names_for(spec), hint=_HINT)


def _preset(name: str, spec: EnvironmentSpec) -> Mask:
    preset = _presets()[name]
    choice = _choice(preset, spec.id)
    if choice is None:
        msg = (
            f"mask {name!r} is not defined for {spec.id!r}, only for "
            f"{', '.join(preset.environments)}: choose {', '.join(names_for(spec))}, {_HINT}"
        )
        raise MismatchError(msg)
    seen = {}
    for agent in spec.agents:
        kind, _, number = agent.rpartition("_")
        lists = choice.agents[kind]
        wanted = lists[int(number) % len(lists)]
        seen[agent] = tuple(block for block in wanted if block in spec.blocks[agent])
    return _static(name, f"{preset.description}: {choice.why.strip()}", seen, spec)


def _choice(preset: MaskPreset, environment: str) -> PresetForEnvironment | None:
    """Return the entry of an environment: its own, else the first whose pattern fits."""
    entries = preset.environments
    fitting = (entries[key] for key in entries if fnmatchcase(environment, key))
    return entries.get(environment) or next(fitting, None)


def _from_file(path: Path, spec: EnvironmentSpec) -> Mask:
    given = _read(path)
    if given.environment not in (None, spec.id):
        msg = (
            f"mask {str(path)!r} is for the environment {given.environment!r}, not for "
            f"{spec.id!r}: choose {', '.join(names_for(spec))} or another file"
        )
        raise MismatchError(msg)
    for agent, blocks in given.agents.items():
        _require(agent, spec.agents, f"agent in the mask {str(path)!r}")
        for block in blocks:
            _require(block, spec.blocks[agent], f"block of {agent!r} in the mask {str(path)!r}")
    if missing := [agent for agent in spec.agents if agent not in given.agents]:
        msg = (
            f"mask {str(path)!r} says nothing about {', '.join(missing)}: list the blocks of "
            f"every agent under [agents], [] for an agent that sees nothing"
        )
        raise UsageError(msg)
    return _static(given.name or path.stem, given.description, given.agents, spec)


def _read(path: Path) -> MaskFile:
    try:
        return MaskFile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        msg = f"mask file {str(path)!r} cannot be read: {error.strerror}; check the path"
        raise UsageError(msg) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"mask file {str(path)!r} is not valid TOML: {error}"
        raise UsageError(msg) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the top level"
        msg = (
            f"mask file {str(path)!r} is wrong at {where}: {first['msg'].lower()}; it holds a "
            "table [agents] of agent = [blocks], and may hold name, description, environment"
        )
        raise UsageError(msg) from None


def _require(name: str, allowed: Iterable[str], what: str) -> None:
    known = list(allowed)
    if name not in known:
        raise UnknownNameError(what, name, known)


def _static(
    name: str, description: str, seen: Mapping[str, tuple[str, ...]], spec: EnvironmentSpec
) -> Mask:
    visible = np.zeros((spec.n_agents, spec.obs_width), bool)
    for row, agent in enumerate(spec.agents):
        for block in seen[agent]:
            for start, stop in spec.blocks[agent][block]:
                visible[row, start:stop] = True
    return Mask(name, visible, None, description, spec.obs_widths)


@cache
def _presets() -> dict[str, MaskPreset]:
    text = (files("kd_offline.students") / "mask_presets.toml").read_text("utf-8")
    return {name: MaskPreset.model_validate(raw) for name, raw in tomllib.loads(text).items()}
