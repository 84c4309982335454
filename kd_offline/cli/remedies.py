"""What to do after an error, in the options of the command that failed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from kd_offline.errors import Remedy

# Values of arguments in Python that are options of their own.
_FLAGS = {("duplicates", "drop"): "drop_duplicates", ("duplicates", "keep"): "allow_duplicates"}


def spelled(remedy: Remedy, command: Any, every: Mapping[str, Any]) -> str | None:
    """Return a remedy as one types it; None where the command has no such option.

    Parameters
    ----------
    remedy
        Of an error that the library raised.
    command
        The one that failed; its parameters have the names that the library's have.
    every
        All commands by name, for remedies that are other operations.
    """
    operation = remedy.operation.removesuffix("_recipe").replace("_", "-")
    if operation:
        command = every.get(operation)
        if command is None:
            return str(remedy)
    words: list[str] = []
    for name, value in remedy.arguments.items():
        option = _option(command, name, value)
        if option is None:
            return None
        words += option
    if operation:
        words = [f"kd-offline {operation}", *words]
    return remedy.around(" ".join(words))


def _option(command: Any, name: str, value: object) -> list[str] | None:
    """Return the words of one argument; None where the command does not take it."""
    known = {one.name: one for one in command.params}
    if isinstance(value, str) and (name, value) in _FLAGS:
        name, value = _FLAGS[name, value], True
    if isinstance(value, Mapping):
        return _entries(command, known, name, value)
    option = known.get(name)
    if option is None:
        return None
    if option.param_type_name == "argument":
        return [(option.metavar or name).upper()] if value is ... else [_typed(value)]
    if value is False:
        return [option.secondary_opts[0]] if option.secondary_opts else None
    flag = max(option.opts, key=len)
    if value is ... or value is True:
        return [flag]
    every = value if isinstance(value, list | tuple) else [value]
    return [word for each in every for word in (flag, _typed(each))]


def _entries(
    command: Any, known: Mapping[str, Any], name: str, given: Mapping[str, object]
) -> list[str] | None:
    """Return the words of settings by their paths: an option of their own, or ``--set``."""
    own = getattr(command.callback, "settings", {})
    recipe = getattr(command.callback, "recipe", None)
    words = []
    for path, value in given.items():
        if name == "settings" and path in own:
            words += _option(command, own[path], value) or []
        elif name == "settings" and recipe and path.split(".")[0] not in recipe.model_fields:
            return None
        elif name in known:
            words += [known[name].opts[0], _typed(f"{path}={_plain(value)}")]
        else:
            return None
    return words


def _plain(value: object) -> str:
    if value is ...:
        return "VALUE"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _typed(value: object) -> str:
    return shlex.quote(str(value))
