"""Finding a PettingZoo environment by name and describing its agents."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import numpy as np

from kd_offline.errors import MissingExtraError, UnknownNameError, UsageError
from kd_offline.schemas.environment import EnvironmentSpec, Scalar
from kd_offline.types import Array, BoolArray

_LOG = logging.getLogger(__name__)
_LIBRARIES = ("pettingzoo", "gymnasium", "mpe2")
_MASK = "action_mask"


@dataclass(frozen=True, slots=True)
class Port:
    """How one agent's observations and actions are read; ``space`` is a gymnasium space."""

    agent: str
    space: Any
    keyed: bool
    blocks: dict[str, tuple[tuple[int, int], ...]]
    width: int
    n_actions: int
    first_action: int

    def flatten(self, observation: Any) -> Array:
        """Return ``observation`` as a flat row [width]."""
        from gymnasium import spaces

        if self.keyed:
            observation = {key: observation[key] for key in self.space}
        row: Array = spaces.flatten(self.space, observation)
        return row

    def legal(self, observation: Any, info: Mapping[str, Any]) -> BoolArray:
        """Return which actions are legal, bool [n_actions]."""
        mask = observation.get(_MASK) if self.keyed else None
        mask = info.get(_MASK) if mask is None else mask
        return np.ones(self.n_actions, bool) if mask is None else np.asarray(mask, bool)


def find(
    name: str, kwargs: Mapping[str, Any]
) -> tuple[Callable[[], Any], EnvironmentSpec, tuple[Port, ...]]:
    """Return what makes an instance of ``pettingzoo/<module>:<factory>``, its spec and its ports.

    ``episode_limit`` in ``kwargs`` is ours; every other entry goes to the factory. Without it the
    limit is the environment's own ``max_cycles``. A limit is required because it bounds the rows
    of a batch and of a recording, and an environment need not tell when it will end.

    Raises
    ------
    MissingExtraError
        PettingZoo, Gymnasium or mpe2 is needed and not installed.
    UsageError
        Module, factory, settings or spaces cannot be used; the message says which.
    """
    module_name, factory_name = _target(name)
    module_name, make = _factory(name, module_name, factory_name)
    settings = {key: value for key, value in kwargs.items() if key != "episode_limit"}
    _require_scalars(name, settings)
    first = _instance(name, make, settings)
    try:
        ports = tuple(_port(name, first, agent) for agent in first.possible_agents)
        limit = _episode_limit(name, first, kwargs)
    finally:
        first.close()
    settings["episode_limit"] = limit
    spec = describe(f"pettingzoo/{module_name}:{factory_name}", settings, ports, limit)
    native = {key: value for key, value in settings.items() if key != "episode_limit"}
    return lambda: make(**native), spec, ports


def describe(
    name: str, kwargs: dict[str, Scalar], ports: tuple[Port, ...], episode_limit: int
) -> EnvironmentSpec:
    """Return the spec of the environment ``name`` whose agents are ``ports``.

    Agents named alike up to their number form one side: all ``pursuer_*`` are the side ``team``,
    while ``adversary_*`` and ``agent_*`` are the sides ``adversary`` and ``agent``.
    """
    agents = tuple(port.agent for port in ports)
    return EnvironmentSpec(
        id=name,
        version=_version(name.partition("/")[2].partition(".")[0].partition(":")[0]),
        kwargs=kwargs,
        agents=agents,
        obs_widths=tuple(port.width for port in ports),
        action_counts=tuple(port.n_actions for port in ports),
        action_names=tuple(tuple(f"action_{k}" for k in range(port.n_actions)) for port in ports),
        episode_limit=episode_limit,
        reward="per_agent",
        sides=_sides(agents),
        state_width=sum(port.width for port in ports),
        state_is_obs=True,
        blocks={port.agent: port.blocks for port in ports},
    )


def _target(name: str) -> tuple[str, str]:
    module, colon, factory = name.removeprefix("pettingzoo/").partition(":")
    if not (module and colon and factory):
        msg = (
            f"environment {name!r} does not say what to load: write "
            "'pettingzoo/<module>:<factory>', such as "
            "'pettingzoo/mpe2.simple_tag_v3:parallel_env'"
        )
        raise UsageError(msg)
    return module, factory


def _factory(name: str, module_name: str, factory: str) -> tuple[str, Callable[..., Any]]:
    """Return the name of the module that is really used, and its factory."""
    for library in ("gymnasium", "pettingzoo"):
        _import(name, library)
    if replacement := _successor(module_name):
        _LOG.warning("%s is not there any more; using %s", module_name, replacement)
        module_name = replacement
    module = _import(name, module_name)
    make = getattr(module, factory, None)
    if not callable(make):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise UnknownNameError(
            what=f"factory of the module {module_name!r}",
            got=factory,
            allowed=[key for key in functions if not key.startswith("_")],
        )
    return module_name, make


def _successor(module_name: str) -> str | None:
    """Return a newer version of a module ``..._v<number>`` that its package no longer has.

    PettingZoo removes a version when it publishes the next one. The spec then bears the name of
    the version that really runs, so nothing made with the old one passes for it.
    """
    package, _, last = module_name.rpartition(".")
    stem, _, version = last.rpartition("_v")
    try:
        if not (package and stem and version.isdigit()) or find_spec(module_name):
            return None
        siblings = [entry.name for entry in iter_modules(importlib.import_module(package).__path__)]
    except (ImportError, AttributeError):
        return None
    found = [(int(m[1]), m[0]) for s in siblings if (m := re.fullmatch(rf"{stem}_v(\d+)", s))]
    newer = [sibling for number, sibling in sorted(found) if number > int(version)]
    return f"{package}.{newer[-1]}" if newer else None


def _import(name: str, module_name: str) -> ModuleType:
    try:
        # PettingZoo deprecates naming an environment by its module, which is our way of naming.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        top = module_name.partition(".")[0]
        if error.name == top in _LIBRARIES:
            raise MissingExtraError(top, "pettingzoo", f"environment {name!r}") from None
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            msg = f"environment {name!r}: no module {error.name!r} can be imported; check its name"
            raise UsageError(msg) from None
        msg = (
            f"environment {name!r}: importing {module_name!r} needs the module {error.name!r}; "
            "install what the environment asks for"
        )
        raise UsageError(msg) from error


def _instance(name: str, make: Callable[..., Any], settings: Mapping[str, Scalar]) -> Any:
    try:
        env = make(**settings)
    except TypeError as error:
        msg = f"environment {name!r} refuses the settings {dict(settings)}: {error}"
        raise UsageError(msg) from error
    if hasattr(env, "agent_iter") or not hasattr(env, "step"):
        msg = (
            f"environment {name!r} is not a ParallelEnv but {type(env).__name__}: "
            "name the factory of its parallel form, usually 'parallel_env'"
        )
        raise UsageError(msg)
    if not getattr(env, "possible_agents", None):
        msg = f"environment {name!r} has no possible_agents: a fixed list of agents is needed"
        raise UsageError(msg)
    return env


def _require_scalars(name: str, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if not isinstance(value, bool | int | float | str):
            msg = (
                f"setting {key!r} of {name!r} is {value!r}: only true, false, numbers and text "
                "can be recorded; leave it at its default"
            )
            raise UsageError(msg)


def _port(name: str, env: Any, agent: str) -> Port:
    from gymnasium import spaces

    actions, space = env.action_space(agent), env.observation_space(agent)
    if not isinstance(actions, spaces.Discrete):
        msg = (
            f"agent {agent!r} of {name!r} has the action space {actions}: only Discrete is "
            "supported; choose the environment's discrete variant"
        )
        raise UsageError(msg)
    keyed = isinstance(space, spaces.Dict)
    parts = {key: part for key, part in space.items() if key != _MASK} if keyed else {}
    space = spaces.Dict(parts) if keyed else space
    if not space.is_np_flattenable:
        msg = (
            f"agent {agent!r} of {name!r} has the observation space {space}, which has no fixed "
            "flat width; use an environment whose observations can be flattened"
        )
        raise UsageError(msg)
    # Gymnasium flattens a Dict in the order in which the space lists its keys.
    widths = {key: spaces.flatdim(space[key]) for key in space} if keyed else {}
    widths = widths or {"observation": spaces.flatdim(space)}
    ends = np.cumsum([0, *widths.values()]).tolist()
    return Port(
        agent=agent,
        space=space,
        keyed=keyed,
        blocks=_ranges(list(widths), ends),
        width=ends[-1],
        n_actions=int(actions.n),
        first_action=int(actions.start),
    )


def _ranges(keys: list[str], ends: list[int]) -> dict[str, tuple[tuple[int, int], ...]]:
    ranges = zip(keys, ends, ends[1:], strict=False)
    return {key: ((start, stop),) for key, start, stop in ranges}


def _episode_limit(name: str, env: Any, kwargs: Mapping[str, Any]) -> int:
    limit = kwargs.get("episode_limit")
    if limit is None:
        # The clock sits at different depths: mpe2 keeps it in the environment behind the
        # wrappers, the sisl family in a simulator inside that.
        inner = getattr(env, "unwrapped", env)
        holders = (env, inner, getattr(inner, "env", None))
        limits = [getattr(holder, "max_cycles", None) for holder in holders]
        limit = next((value for value in limits if value is not None), None)
    if limit is None:
        msg = f"environment {name!r} does not tell its episode limit: give episode_limit"
        raise UsageError(msg)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        msg = f"episode_limit of {name!r} is {limit!r}: give a whole number of at least 1"
        raise UsageError(msg)
    return limit


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _sides(agents: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    sides: dict[str, list[str]] = {}
    for agent in agents:
        sides.setdefault(re.sub(r"_?\d+$", "", agent), []).append(agent)
    if len(sides) == 1:
        return {"team": agents}
    return {side: tuple(members) for side, members in sides.items()}
