"""Find a PettingZoo environment by name and describe its agents."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import math
import re
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import numpy as np

from kd_offline.environments.pettingzoo_port import (
    MASKS,
    Port,
    nested_mask,
    other_mask,
    shown,
    unread,
)
from kd_offline.errors import MissingExtraError, Remedy, UnknownNameError, UsageError, UserCodeError
from kd_offline.schemas.bounds import LONGEST_EPISODE
from kd_offline.schemas.environment import EnvironmentSpec, Scalar
from kd_offline.user_code import calling, close_all

_LOG = logging.getLogger(__name__)
_LIBRARIES = ("pettingzoo", "gymnasium", "mpe2")
_MOST_ACTIONS = 2**15 - 1  # of an int16
_OURS = ("episode_limit", "sides")
_NAME = re.compile(r"\w([\w .:+-]{0,62}[\w.:+-])?")


def find(
    name: str, kwargs: Mapping[str, Any]
) -> tuple[Callable[[], Any], EnvironmentSpec, tuple[Port, ...]]:
    """Return the factory, the spec and the ports of ``pettingzoo/<module>:<factory>``.

    The factory may return a ParallelEnv or an AECEnv, which PettingZoo converts to a ParallelEnv.

    ``episode_limit`` and ``sides`` in ``kwargs`` are ours; every other entry goes to the factory.
    Without a limit it is the environment's own ``max_cycles``. One is required because it bounds
    the rows of a batch and of a recording, and an environment need not state when it ends.

    Raises
    ------
    MissingExtraError
        PettingZoo, Gymnasium or mpe2 is needed and not installed.
    UsageError
        Module, factory, settings, agents' names or spaces cannot be used; the message says which.
    UserCodeError
        The environment itself fails.
    """
    module_name, factory_name = _target(name)
    module_name, make = _factory(name, module_name, factory_name)
    native = {key: value for key, value in kwargs.items() if key not in _OURS}
    _require_scalars(name, native)
    first = _instance(name, make, native)
    try:
        agents = _agents(name, first)
        ports = tuple(_port(name, first, agent, key) for agent, key in agents.items())
        limit = _episode_limit(name, first, kwargs)
    finally:
        close_all([first])
    settings = {**{k: v for k, v in kwargs.items() if k != "episode_limit"}, "episode_limit": limit}
    spec = describe(f"pettingzoo/{module_name}:{factory_name}", settings, ports, limit)
    return lambda: _instance(name, make, native), spec, ports


def turn_of(env: Any) -> set[Any] | None:
    """Return the agents whose turn it is; None in an environment where all act at once."""
    from pettingzoo.utils.conversions import turn_based_aec_to_parallel_wrapper

    if isinstance(env, turn_based_aec_to_parallel_wrapper):
        return {env.aec_env.agent_selection} & set(env.agents)
    return None


def describe(
    name: str, kwargs: dict[str, Scalar], ports: tuple[Port, ...], episode_limit: int
) -> EnvironmentSpec:
    """Return the spec of the environment ``name`` whose agents are ``ports``.

    Agents named alike up to their number form one side: all ``pursuer_*`` are the side ``team``,
    while ``adversary_*`` and ``agent_*`` are the sides ``adversary`` and ``agent``. The setting
    ``sides`` in ``kwargs`` says otherwise: with ``each`` every agent is a side of its own, as the
    players of a game against each other are, with ``one`` all are one team.
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
        sides=_sides(name, agents, kwargs.get("sides")),
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
    """Return the name of the module that is used, and its factory."""
    for library in ("gymnasium", "pettingzoo"):
        _import(name, library)
    with calling(f"environment {name!r}", f"the import of {module_name.partition('.')[0]!r}"):
        replacement = _successor(module_name)
    if replacement:
        _LOG.warning("%s is not there any more; using %s", module_name, replacement)
        module_name = replacement
    module = _import(name, module_name)
    with calling(f"environment {name!r}", f"looking for {factory!r}"):
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

    PettingZoo removes a version when it publishes the next one. The spec then has the name of the
    version that runs, so that recordings of the old version are not mistaken for it.
    """
    package, _, last = module_name.rpartition(".")
    stem, _, version = last.rpartition("_v")
    try:
        if not (package and stem and version.isdigit()) or find_spec(module_name):
            return None
        siblings = [entry.name for entry in iter_modules(importlib.import_module(package).__path__)]
    except (ImportError, AttributeError):
        return None
    versions = [(int(m[1]), m[0]) for s in siblings if (m := re.fullmatch(rf"{stem}_v(\d+)", s))]
    newer = [sibling for number, sibling in sorted(versions) if number > int(version)]
    return f"{package}.{newer[-1]}" if newer else None


def _import(name: str, module_name: str) -> ModuleType:
    try:
        # PettingZoo deprecates naming an environment by its module, which is our way of naming.
        with (
            calling(f"environment {name!r}", f"the import of {module_name!r}"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module_name)
    except UserCodeError as failed:
        error = failed.__cause__
        if not isinstance(error, ModuleNotFoundError):
            raise
        package = module_name.partition(".")[0]
        if error.name == package in _LIBRARIES:
            raise MissingExtraError(package, "pettingzoo", f"environment {name!r}") from None
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            msg = f"environment {name!r}: no module {error.name!r} can be imported; check its name"
            raise UsageError(msg) from None
        msg = (
            f"environment {name!r}: importing {module_name!r} needs the module {error.name!r}; "
            "install what the environment asks for"
        )
        raise UsageError(msg) from error


def _instance(name: str, make: Callable[..., Any], settings: Mapping[str, Scalar]) -> Any:
    """Return a new ParallelEnv; PettingZoo itself converts an AEC environment."""
    from pettingzoo import AECEnv, ParallelEnv
    from pettingzoo.utils import conversions

    refused: TypeError | None = None
    with calling(f"environment {name!r}", "its constructor"):
        try:
            env = make(**settings)
        except TypeError as error:
            if not settings:
                raise
            refused = error
        else:
            if isinstance(env, AECEnv):
                at_once = bool(env.metadata.get("is_parallelizable"))
                turn_by_turn = conversions.turn_based_aec_to_parallel
                env = conversions.aec_to_parallel(env) if at_once else turn_by_turn(env)
    if refused is not None:
        msg = f"environment {name!r} refuses the settings {dict(settings)}: {refused}"
        raise UsageError(msg) from refused
    if not isinstance(env, ParallelEnv):
        msg = (
            f"environment {name!r} is not a ParallelEnv or AECEnv of PettingZoo but "
            f"{type(env).__name__}: name the factory of one, usually 'parallel_env' or 'env'"
        )
        raise UsageError(msg)
    return env


def _agents(name: str, env: Any) -> dict[str, Any]:
    """Return the environment's own key of each agent, by our name, which is text."""
    with calling(f"environment {name!r}", "possible_agents"):
        keys = list(getattr(env, "possible_agents", None) or ())
    if not keys:
        msg = f"environment {name!r} has no possible_agents: a fixed list of agents is needed"
        raise UsageError(msg)
    agents: dict[str, Any] = {}
    for key in keys:
        agent = str(key) if isinstance(key, str | int | np.integer) else ""
        if not _NAME.fullmatch(agent):
            msg = (
                f"environment {name!r} names an agent {shown(key)}: names are text of 1 to 64 "
                "letters, digits and ' ', '_', '-', '.', ':', '+', or whole numbers"
            )
            raise UsageError(msg)
        if agent in agents:
            msg = (
                f"environment {name!r} has two agents of the name {agent!r}: give each its own, "
                "also when written as text"
            )
            raise UsageError(msg)
        agents[agent] = key
    return agents


def _require_scalars(name: str, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        if not (isinstance(value, bool | int | float | str) and finite):
            msg = (
                f"setting {key!r} of {name!r} is {shown(value)}: only true, false, finite numbers "
                "and text can be recorded; leave it at its default"
            )
            raise UsageError(msg)


def _port(name: str, env: Any, agent: str, key: Any) -> Port:
    from gymnasium import spaces

    with calling(f"environment {name!r}", "spaces", agent=agent):
        actions, observation_space = env.action_space(key), env.observation_space(key)
    if not isinstance(actions, spaces.Discrete):
        msg = (
            f"agent {agent!r} of {name!r} has the action space {actions}: only Discrete is "
            "supported; choose the environment's discrete variant"
        )
        raise UsageError(msg)
    if actions.n > _MOST_ACTIONS:
        msg = (
            f"agent {agent!r} of {name!r} has {actions.n} actions: recordings hold "
            f"{_MOST_ACTIONS} at most"
        )
        raise UsageError(msg)
    keyed = isinstance(observation_space, spaces.Dict)
    if keyed and (other := other_mask(observation_space.spaces)):
        msg = f"agent {agent!r} of {name!r}: {unread(other, 'observations')}"
        raise UsageError(msg)
    if other := nested_mask(observation_space):
        msg = (
            f"agent {agent!r} of {name!r} observes {other!r} within another part, where it is not "
            "read: put 'action_mask' beside the parts of the observation"
        )
        raise UsageError(msg)
    parts = (
        {block: part for block, part in observation_space.items() if block not in MASKS}
        if keyed
        else {}
    )
    space = spaces.Dict(parts) if keyed else observation_space
    with calling(f"environment {name!r}", "spaces", agent=agent):
        flat = isinstance(space, spaces.Space) and bool(space.is_np_flattenable)
    if not flat:
        msg = (
            f"agent {agent!r} of {name!r} has the observation space {space}, which has no fixed "
            "flat width; use an environment whose observations can be flattened"
        )
        raise UsageError(msg)
    # Gymnasium flattens a Dict in the order in which the space lists its keys.
    with calling(f"environment {name!r}", "spaces", agent=agent):
        widths = {block: spaces.flatdim(space[block]) for block in space} if keyed else {}
        widths = widths or {"observation": spaces.flatdim(space)}
    for block, width in widths.items():
        if not (isinstance(block, str) and block.isprintable() and 0 < len(block) <= 64 and width):
            msg = (
                f"agent {agent!r} of {name!r} observes {shown(block)} of {width} numbers: each "
                "part needs a printable name of 1 to 64 characters and at least one number"
            )
            raise UsageError(msg)
    ends = np.cumsum([0, *widths.values()]).tolist()
    return Port(
        agent=agent,
        key=key,
        observation_space=observation_space,
        action_space=actions,
        space=space,
        keyed=keyed,
        blocks=_ranges(list(widths), ends),
        width=ends[-1],
    )


def _ranges(keys: list[str], ends: list[int]) -> dict[str, tuple[tuple[int, int], ...]]:
    ranges = zip(keys, ends, ends[1:], strict=False)
    return {key: ((start, stop),) for key, start, stop in ranges}


def _episode_limit(name: str, env: Any, kwargs: Mapping[str, Any]) -> int:
    limit = kwargs.get("episode_limit")
    if limit is None:
        # The clock sits at different depths: mpe2 keeps it in the environment behind the
        # wrappers, the sisl family in a simulator inside that.
        with calling(f"environment {name!r}", "looking for max_cycles"):
            inner = getattr(env, "unwrapped", env)
            holders = (env, inner, getattr(inner, "env", None))
            limits = [getattr(holder, "max_cycles", None) for holder in holders]
        limit = next((value for value in limits if value is not None), None)
    if limit is None:
        msg = (
            f"environment {name!r} does not tell its episode limit, and somebody has to say how "
            "many steps an episode has at most"
        )
        raise UsageError(msg, Remedy("pass", environment_kwargs={"episode_limit": 25}))
    if type(limit) is not int or not 1 <= limit <= LONGEST_EPISODE:
        msg = (
            f"episode_limit of {name!r} is {limit!r}: give a whole number of 1 to "
            f"{LONGEST_EPISODE:,}"
        )
        raise UsageError(msg)
    return limit


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _sides(name: str, agents: tuple[str, ...], rule: Any) -> dict[str, tuple[str, ...]]:
    if rule not in (None, "each", "one"):
        msg = (
            f"setting 'sides' of {name!r} is {rule!r}: give each or one, or leave it out, so that "
            "agents named alike form a side"
        )
        raise UsageError(msg)
    if rule == "each":
        return {agent: (agent,) for agent in agents}
    if rule == "one":
        return {"team": agents}
    sides: dict[str, list[str]] = {}
    for agent in agents:
        sides.setdefault(re.sub(r"_?\d+$", "", agent) or "agents", []).append(agent)
    if len(sides) == 1:
        return {"team": agents}
    return {side: tuple(members) for side, members in sides.items()}
