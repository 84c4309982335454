"""Check the settings that a user gives to an environment of kd-offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.schemas.environment import Strict

_Model = TypeVar("_Model", bound=Strict)


def parsed(name: str, model: type[_Model], settings: Mapping[str, Any]) -> _Model:
    """Return the settings of the environment ``name`` as its model.

    Raises
    ------
    UnknownNameError
        There is no such setting.
    UsageError
        A value is impossible.
    """
    for key in settings:
        if key not in model.model_fields:
            raise UnknownNameError(what=f"setting of {name}", got=key, allowed=model.model_fields)
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(map(str, first["loc"]))
        msg = f"setting {setting!r} of {name} is {first['input']!r}: {first['msg'].lower()}"
        raise UsageError(msg) from None
