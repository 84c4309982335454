"""Environments by name: those of kd-offline in a table, those of packages by entry points."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from kd_offline import code_guard
from kd_offline.errors import MismatchError, UnknownNameError
from kd_offline.registry import Registry
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.parts import PartRecord
from kd_offline.user_code import calling, plain

if TYPE_CHECKING:
    from kd_offline.environments.protocol import BatchedEnvironment

_MOST_NUMBERS = 1 << 27  # that the agents of all episodes at once are given in a step
_HERE, _KIND = "kd_offline.environments", "environment"


class _Ours(NamedTuple):
    place: str  # module:attribute of what makes it
    description: str
    shown: str  # the name, or what names look like


_TABLE = {
    "mpe/simple_spread_v3": _Ours(
        f"{_HERE}.particle.tasks:simple_spread",
        "N agents cover N landmarks without touching (n_agents, local_ratio, episode_limit)",
        "mpe/simple_spread_v3",
    ),
    "mpe/simple_speaker_listener_v4": _Ours(
        f"{_HERE}.particle.tasks:simple_speaker_listener",
        "one names the goal, the other goes there (episode_limit)",
        "mpe/simple_speaker_listener_v4",
    ),
    "mpe/simple_adversary_v3": _Ours(
        f"{_HERE}.particle.tasks:simple_adversary",
        "good agents hide their goal from an adversary (n_good_agents, episode_limit)",
        "mpe/simple_adversary_v3",
    ),
    "grid/predator_prey": _Ours(
        f"{_HERE}.grid.predator_prey:load",
        "predators catch prey in pairs on a grid (size, n_predators, n_prey, view, "
        "capture_reward, lone_penalty, capturers_leave, episode_limit)",
        "grid/predator_prey",
    ),
    "smax/": _Ours(
        f"{_HERE}.smax.settings:load",
        "StarCraft-like combat of JaxMARL such as 3m, 8m, 5m_vs_6m, 3s5z, 2s3z, smacv2_5_units; a "
        "wrong map lists all (see_enemy_actions, walls_cause_death, enemy_shoots, attack_mode, "
        "won_battle_bonus, episode_limit)",
        "smax/<map>",
    ),
    "smac/": _Ours(
        f"{_HERE}.smac.environment:load",
        "the original StarCraft II tasks, such as smac/3m; needs the game, see kd-offline doctor "
        "(difficulty, game_version, games and the package's own)",
        "smac/<map>",
    ),
    "pettingzoo/": _Ours(
        f"{_HERE}.pettingzoo:load",
        "any ParallelEnv or AECEnv with discrete actions, such as "
        "pettingzoo/mpe2.simple_tag_v3:parallel_env (episode_limit, sides=each or one, and the "
        "factory's own)",
        "pettingzoo/<module>:<factory>",
    ),
}
ENVIRONMENTS: Registry[Callable[..., BatchedEnvironment]] = Registry(
    _KIND, code_guard.ENVIRONMENTS, {name: ours.place for name, ours in _TABLE.items()}
)
"""What makes each environment: called with its settings, after the rest of a name that ends in
``/``."""


def load(name: str, **kwargs: Any) -> BatchedEnvironment:
    """Return the environment called ``name``, as the user named it.

    A name that stands in a file goes to :func:`load_recorded` instead.

    Parameters
    ----------
    name
        One of :func:`names`, such as ``mpe/simple_spread_v3``, or
        ``pettingzoo/<module>:<factory>`` for any PettingZoo environment, or ``smax/<map>``.
    **kwargs
        Settings of the environment, such as ``n_agents`` or ``episode_limit``.

    Raises
    ------
    UnknownNameError
        There is no such environment.
    UsageError
        A setting does not exist or has an impossible value.
    MissingExtraError
        The environment needs an optional library that is not installed.
    UserCodeError, MismatchError
        The environment of another package fails, or is not what an environment has to be.
    """
    return _load(name, kwargs)


def load_recorded(
    name: str,
    settings: Mapping[str, Any],
    *,
    asked_by: str,
    allowed: str | None = None,
    parts: Iterable[PartRecord] = (),
) -> BatchedEnvironment:
    """Return the environment that a file names, if :mod:`kd_offline.code_guard` lets it pass.

    Parameters
    ----------
    name, settings
        As the file states them.
    asked_by
        The file, in words, for the error.
    allowed
        What the user named, to let an environment run that the guard does not know.
    parts
        What the file states of packages, to say which to install.

    Raises
    ------
    UsageError
        A file may not start it.
    UnknownNameError
        It is not installed; the sentence names the package, where ``parts`` state it.

    And as for :func:`load`.
    """
    code_guard.check_environment(name, settings, asked_by=asked_by, allowed=allowed)
    stated = next((part for part in parts if (part.kind, part.name) == (_KIND, name)), None)
    package = "" if stated is None else f"{stated.package} {stated.version}"
    ENVIRONMENTS.require(name, asked_by=asked_by, package=package)
    return _load(name, settings)


def _load(name: str, settings: Mapping[str, Any]) -> BatchedEnvironment:
    make, key = ENVIRONMENTS.load(name), ENVIRONMENTS.key(name)
    rest = (name.removeprefix(key),) if key.endswith("/") else ()
    if ENVIRONMENTS.origin(name).ours:
        return make(*rest, **settings)
    return _of_plug_in(name, make, rest, settings)


def _of_plug_in(
    name: str, make: Callable[..., Any], rest: tuple[str, ...], settings: Mapping[str, Any]
) -> BatchedEnvironment:
    """Return the environment of another package, which has to be what it says."""
    who = f"environment {name!r} of {ENVIRONMENTS.origin(name)}"
    _require_known(name, make, settings)
    with calling(who, "its factory"):
        made = make(*rest, **settings)
        spec = getattr(made, "spec", None)
    if not isinstance(spec, EnvironmentSpec):
        msg = f"{who} gave {plain(type(made).__name__)!r}, which has no spec: "
        if hasattr(made, "possible_agents"):
            msg += "name one of PettingZoo's pettingzoo/<module>:<factory>"
        else:
            msg += "follow kd_offline.environments.protocol.BatchedEnvironment"
        raise MismatchError(msg)
    if spec.id != name:
        msg = f"{who} states the id {plain(spec.id)!r}, by which no file finds it: state {name!r}"
        raise MismatchError(msg)
    environment: BatchedEnvironment = made
    return environment


def _require_known(name: str, make: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    with calling(f"environment {name!r}", "its signature"):
        given = inspect.signature(make).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in given):
        return
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    known = [parameter.name for parameter in given if parameter.kind not in positional]
    for key in settings:
        if key not in known:
            raise UnknownNameError(what=f"setting of {name}", got=key, allowed=known)


def largest_batch(environment: BatchedEnvironment, wanted: int) -> int:
    """Return how many episodes can be played at once: ``wanted``, or fewer where each is costly."""
    spec = environment.spec
    numbers = spec.n_agents * max(spec.obs_width, spec.action_count, 1)
    most = max(1, _MOST_NUMBERS // numbers)
    return min(wanted, most, getattr(environment, "largest_batch", wanted))


def irreproducible(spec: EnvironmentSpec) -> str | None:
    """Return why episodes of an environment cannot be played again, None where they can be."""
    if spec.id.startswith("smac/") and not spec.kwargs.get("new_game_each_episode"):
        return (
            f"{spec.id} was recorded in games of several episodes, and StarCraft II takes a seed "
            "for a whole game only: its episodes cannot be played again, unless recorded "
            "with its setting new_game_each_episode=true"
        )
    return None


def names() -> dict[str, str]:
    """Return every environment name or pattern with a one-line description; imports none."""
    ours = {ours.shown: ours.description for ours in _TABLE.values()}
    return ours | {
        f"{name}<name>" if name.endswith("/") else name: f"of {ENVIRONMENTS.origin(name)}"
        for name in ENVIRONMENTS
        if name not in _TABLE
    }
