"""Environments by name; each backend is imported when it is asked for, not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.schemas.environment import Strict

if TYPE_CHECKING:
    from kd_offline.environments.particle.environment import ParticleEnvironment
    from kd_offline.environments.protocol import BatchedEnvironment

_Model = TypeVar("_Model", bound=Strict)


def load(name: str, **kwargs: Any) -> BatchedEnvironment:
    """Return the environment called ``name``.

    Parameters
    ----------
    name
        One of :func:`names`, such as ``mpe/simple_spread_v3``, or
        ``pettingzoo/<module>:<factory>`` for any parallel PettingZoo environment.
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
    if name in _LOADERS:
        return _LOADERS[name](kwargs)
    family, _, target = name.partition("/")
    if family == "pettingzoo" and target:
        return _pettingzoo(name, kwargs)
    raise UnknownNameError(what="environment", got=name, allowed=names())


def names() -> dict[str, str]:
    """Return every environment name or pattern with a one-line description."""
    return dict(_DESCRIPTIONS)


def _spread(kwargs: dict[str, Any]) -> ParticleEnvironment:
    from kd_offline.environments.particle.environment import ParticleEnvironment
    from kd_offline.environments.particle.settings import SpreadSettings
    from kd_offline.environments.particle.spread import Spread

    settings = _parse("mpe/simple_spread_v3", SpreadSettings, kwargs)
    return ParticleEnvironment(Spread(settings), settings.world_dtype)


def _pettingzoo(name: str, kwargs: dict[str, Any]) -> BatchedEnvironment:
    raise UnknownNameError(what="environment", got=name, allowed=names())


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
}

_DESCRIPTIONS = {
    "mpe/simple_spread_v3": "N agents cover N landmarks (n_agents, local_ratio, episode_limit)",
}
