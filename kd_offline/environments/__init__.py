"""Environments by name; each backend is imported when it is asked for, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from kd_offline import code_guard
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.schemas.environment import EnvironmentSpec, Strict

if TYPE_CHECKING:
    from kd_offline.environments.protocol import BatchedEnvironment

_MOST_NUMBERS = 1 << 27  # that the agents of all episodes at once are given in a step
_Model = TypeVar("_Model", bound=Strict)


def load(name: str, **kwargs: Any) -> BatchedEnvironment:
    """Return the environment called ``name``, as the user named it.

    A name that stands in a file goes to :func:`load_recorded` instead.

    Parameters
    ----------
    name
        One of :func:`names`, such as ``mpe/simple_spread_v3``, or
        ``pettingzoo/<module>:<factory>`` for any PettingZoo environment, or
        ``smax/<map>``.
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
    """
    return _load(name, kwargs)


def load_recorded(
    name: str, settings: Mapping[str, Any], *, asked_by: str, allowed: str | None = None
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

    Raises
    ------
    UsageError
        A file may not start it, or as for :func:`load`.
    """
    code_guard.check_environment(name, settings, asked_by=asked_by, allowed=allowed)
    return _load(name, dict(settings))


def _load(name: str, kwargs: dict[str, Any]) -> BatchedEnvironment:
    if name in _LOADERS:
        return _LOADERS[name](kwargs)
    if name.startswith("pettingzoo/"):
        from kd_offline.environments.pettingzoo import load as load_pettingzoo

        return load_pettingzoo(name, kwargs)
    if name.startswith("smac/"):
        return _smac(name, kwargs)
    if name.startswith("smax/"):
        return _smax(name, kwargs)
    raise UnknownNameError(what="environment", got=name, allowed=names())


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
    """Return every environment name or pattern with a one-line description."""
    return dict(_DESCRIPTIONS)


def _spread(kwargs: dict[str, Any]) -> BatchedEnvironment:
    from kd_offline.environments.particle.environment import ParticleEnvironment
    from kd_offline.environments.particle.settings import SpreadSettings
    from kd_offline.environments.particle.spread import Spread

    settings = _parse("mpe/simple_spread_v3", SpreadSettings, kwargs)
    return ParticleEnvironment(Spread(settings), settings.world_dtype)


def _speaker_listener(kwargs: dict[str, Any]) -> BatchedEnvironment:
    from kd_offline.environments.particle.environment import ParticleEnvironment
    from kd_offline.environments.particle.settings import Settings
    from kd_offline.environments.particle.speaker_listener import SpeakerListener

    settings = _parse("mpe/simple_speaker_listener_v4", Settings, kwargs)
    return ParticleEnvironment(SpeakerListener(settings), settings.world_dtype)


def _adversary(kwargs: dict[str, Any]) -> BatchedEnvironment:
    from kd_offline.environments.particle.adversary import Adversary
    from kd_offline.environments.particle.environment import ParticleEnvironment
    from kd_offline.environments.particle.settings import AdversarySettings

    settings = _parse("mpe/simple_adversary_v3", AdversarySettings, kwargs)
    return ParticleEnvironment(Adversary(settings), settings.world_dtype)


def _predator_prey(kwargs: dict[str, Any]) -> BatchedEnvironment:
    from kd_offline.environments.grid.predator_prey import PredatorPrey, PredatorPreySettings

    return PredatorPrey(_parse("grid/predator_prey", PredatorPreySettings, kwargs))


def _smax(name: str, kwargs: dict[str, Any]) -> BatchedEnvironment:
    from kd_offline.environments.smax.library import require
    from kd_offline.environments.smax.settings import SmaxSettings

    settings = _parse(name, SmaxSettings, kwargs)
    require(name)
    from kd_offline.environments.smax.environment import Smax

    return Smax(name.removeprefix("smax/"), settings)


def _smac(name: str, kwargs: dict[str, Any]) -> BatchedEnvironment:
    from kd_offline.environments.smac.environment import load as load_smac
    from kd_offline.environments.smac.settings import SmacSettings

    return load_smac(name.removeprefix("smac/"), _parse(name, SmacSettings, kwargs))


def _parse(name: str, model: type[_Model], kwargs: dict[str, Any]) -> _Model:
    allowed = list(model.model_fields)
    for key in kwargs:
        if key not in allowed:
            raise UnknownNameError(what=f"setting of {name}", got=key, allowed=allowed)
    try:
        return model.model_validate(kwargs)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(map(str, first["loc"]))
        msg = f"setting {setting!r} of {name} is {first['input']!r}: {first['msg'].lower()}"
        raise UsageError(msg) from None


_LOADERS: dict[str, Callable[[dict[str, Any]], BatchedEnvironment]] = {
    "mpe/simple_spread_v3": _spread,
    "mpe/simple_speaker_listener_v4": _speaker_listener,
    "mpe/simple_adversary_v3": _adversary,
    "grid/predator_prey": _predator_prey,
}

_DESCRIPTIONS = {
    "mpe/simple_spread_v3": (
        "N agents cover N landmarks without touching (n_agents, local_ratio, episode_limit)"
    ),
    "mpe/simple_speaker_listener_v4": "one names the goal, the other goes there (episode_limit)",
    "mpe/simple_adversary_v3": (
        "good agents hide their goal from an adversary (n_good_agents, episode_limit)"
    ),
    "grid/predator_prey": (
        "predators catch prey in pairs on a grid (size, n_predators, n_prey, view, capture_reward, "
        "lone_penalty, capturers_leave, episode_limit)"
    ),
    "smax/<map>": (
        "StarCraft-like combat of JaxMARL such as 3m, 8m, 5m_vs_6m, 3s5z, 2s3z, smacv2_5_units; a "
        "wrong map lists all (see_enemy_actions, walls_cause_death, enemy_shoots, attack_mode, "
        "won_battle_bonus, episode_limit)"
    ),
    "smac/<map>": (
        "the original StarCraft II tasks, such as smac/3m; needs the game, see kd-offline doctor "
        "(difficulty, game_version, games and the package's own)"
    ),
    "pettingzoo/<module>:<factory>": (
        "any ParallelEnv or AECEnv with discrete actions, such as "
        "pettingzoo/mpe2.simple_tag_v3:parallel_env (episode_limit, sides=each or one, and the "
        "factory's own)"
    ),
}
