"""Check names of code, files and addresses that a file states, before they are imported or opened.

Datasets, runs, experts, exports and recipes travel, and they name environments, experts and files.
What a user types or passes in Python is the user's own choice and is not checked here. What a file
states passes only if it names a part of kd-offline, one of PettingZoo's own tasks, or a part of an
installed plug-in. Anything else must be named by the user as well. The check imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kd_offline.errors import Remedy, UsageError
from kd_offline.registry import entry_points_of

ENVIRONMENTS, EXPERTS = "kd_offline.environments", "kd_offline.experts"
"""Entry-point groups by which an installed plug-in offers parts of its own."""

_ENVIRONMENT = re.compile(
    r"[\w-]+(/[\w-]+)?|"  # ours or unknown: no module and no path
    r"pettingzoo/(mpe2|pettingzoo\.(atari|butterfly|classic|mpe|sisl))\.[a-z0-9_]+_v[0-9]+"
    r":(parallel_env|env)",
    re.ASCII,
)
_EXPERT = re.compile(r"bundled(:[a-z]+)?", re.ASCII)
_WORD = re.compile(r"[\w-]+", re.ASCII)
# Other text may be a path, and PettingZoo's factories take some, or open a window.
# ``sides`` is ours and reaches no factory.
_TEXT_SETTINGS = frozenset({"obs_method", "obs_type", "observation_type", "sides"})
_LARGEST = 1000  # number that a factory may make as many of something as
_LONGEST_EPISODE = 1_000_000
_STEPS = frozenset({"max_cycles", "episode_limit"})
_LONGEST = 200
_IF_CODE = "if you trust that code, pass"
_SEVERAL = frozenset({"opponents", "masks"})  # arguments that take a list


def check_environment(
    name: str,
    settings: Mapping[str, Any],
    *,
    asked_by: str,
    allowed: str | None = None,
    remedy: Remedy | None = None,
) -> None:
    """Raise unless a file may start this environment, or the user named it.

    Parameters
    ----------
    name, settings
        As the file states them. Settings of PettingZoo's tasks and of plug-ins' environments may
        be numbers up to 1,000, steps up to 1,000,000, true and false, and text only for the coding
        of observations. Settings of our environments are checked by the environment.
    asked_by
        The file, in words: ``the run in 'run'``.
    allowed
        The name that the user gave. It must equal ``name``, and then any settings pass.
    remedy
        How the user names it; None: by the argument ``environment``.

    Raises
    ------
    UsageError
        It may not run; the message says what to pass.
    """
    if allowed == name:
        return
    if allowed is not None:
        msg = f"{asked_by} names the environment {_quoted(name)}, not {_quoted(allowed)}"
        stated = Remedy("pass", "with the name that it states", environment=...)
        raise UsageError(msg, stated, Remedy("leave it out"))
    factory = name.removeprefix("pettingzoo/")
    is_known = bool(_ENVIRONMENT.fullmatch(name)) or _is_offered(ENVIRONMENTS, factory)
    unsafe = unsafe_settings(name, settings)
    if is_known and not unsafe:
        return
    settings_shown = unsafe if is_known else settings
    settings_text = f" with {listed(settings_shown)}" if settings_shown else ""
    msg = (
        f"{asked_by} asks for the environment {_quoted(name)}{settings_text}, which a file may not "
        "start by itself"
    )
    raise UsageError(msg, remedy or Remedy(_IF_CODE, environment=_typed(name)))


def check_recipe_environment(
    name: str, settings: Mapping[str, Any], *, asked_by: str, operation: str, named: bool
) -> None:
    """Raise an error if a recipe in a file names an environment or settings that it may not choose.

    ``operation`` takes the name of an environment; ``named``: the user gave it, and ``settings``
    are those that the file alone states. The rest is as for :func:`check_environment`.

    Raises
    ------
    UsageError
        It may not run so; the sentence says what to pass.
    """
    if not named:
        remedy = naming(operation, name)
        check_environment(name, settings, asked_by=asked_by, remedy=remedy)
    elif unsafe := unsafe_settings(name, settings):
        msg = (
            f"{asked_by} sets {', '.join(unsafe)} of the environment {name!r} to text, which a "
            "file may not do"
        )
        example = {next(iter(unsafe)): "VALUE"}
        raise UsageError(msg, Remedy("give each, such as", environment_kwargs=example))


def naming(operation: str, environment: str) -> Remedy:
    """Return the call of an operation in which the user names an environment."""
    before = "if you trust that code, run"
    return Remedy(before, operation=operation, environment=_typed(environment))


def unsafe_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an environment that a file may not state.

    Text may be a path, and a number may be the number of agents, walls or pixels to allocate.
    """
    if not name.startswith("pettingzoo/") and not _offered_by_name(name):
        return {}
    return {key: value for key, value in settings.items() if not _is_harmless(key, value)}


def _is_harmless(key: str, value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return abs(value) <= (_LONGEST_EPISODE if key in _STEPS else _LARGEST)
    return key in _TEXT_SETTINGS


def check_expert(
    reference: str, *, asked_by: str, argument: str = "expert", allowed: Collection[str] = ()
) -> None:
    """Raise unless a file may load this expert: bundled, of a plug-in, or in ``allowed``.

    ``argument`` is what the user names it with, such as ``expert`` or, for an entry of a mapping,
    ``settings.opponents``; the rest is as for :func:`check_environment`.

    Raises
    ------
    UsageError
        It may not be loaded; the message says what to pass.
    """
    if reference in allowed or _EXPERT.fullmatch(reference):
        return
    if reference.startswith("python:") and _is_offered(EXPERTS, reference.removeprefix("python:")):
        return
    msg = (
        f"{asked_by} asks for the expert {_quoted(reference)}, which a file may not load by itself"
    )
    raise UsageError(msg, _pass("if you trust it, pass", argument, reference))


def check_name(name: str, *, what: str, asked_by: str, argument: str) -> None:
    """Raise if a file states a name that is the path of another file; ``what`` describes the name.

    Raises
    ------
    UsageError
        It is no plain word; the message says what to pass.
    """
    if _WORD.fullmatch(name):
        return
    msg = (
        f"{asked_by} asks for the {what} {_quoted(name)}, and a file may not choose which other "
        "files are read"
    )
    raise UsageError(msg, _pass("if you know that one, pass", argument, name))


def check_address(address: str, *, asked_by: str, argument: str) -> None:
    """Raise if a file states the address of another machine.

    Raises
    ------
    UsageError
        It is a URL or a network share; the message says what to pass.
    """
    if "://" not in address and not address.startswith(("//", "\\\\", "/\\", "\\/")):
        return
    msg = (
        f"{asked_by} says that its dataset is at {_quoted(address)}, and a file may not choose "
        "which server is asked"
    )
    raise UsageError(msg, _pass("if you know that address, pass", argument, address))


def in_file(path: str | Path) -> str:
    """Return the words ``the file '...'`` for messages."""
    return f"the file {_quoted(str(path))}"


def _is_offered(group: str, factory: str) -> bool:
    """Return whether an installed plug-in offers ``module:factory``; nothing is imported."""
    return any(factory in (entry.name, entry.value) for entry in entry_points_of(group))


def _offered_by_name(name: str) -> bool:
    """Tell whether an installed plug-in offers an environment of this name, or of its beginning."""
    names = (entry.name for entry in entry_points_of(ENVIRONMENTS))
    return any(name == own or (own.endswith("/") and name.startswith(own)) for own in names)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _typed(text: str) -> str:
    """Return a value that is to be passed; ``NAME`` stands for one that cannot be printed."""
    return text if text.isprintable() and len(text) <= _LONGEST else "NAME"


def _pass(before: str, argument: str, value: str) -> Remedy:
    name, _, path = argument.partition(".")
    given: Any = {path: _typed(value)} if path else _typed(value)
    if name in _SEVERAL:
        given = [given]
    return Remedy(before, **{name: given})


def listed(settings: Mapping[str, Any]) -> str:
    """Return the first five settings of an environment, for messages."""
    texts = [f"{_quoted(str(key))[1:-1]}={_quoted(str(value))}" for key, value in settings.items()][
        :5
    ]
    return ", ".join([*texts, "..."] if len(settings) > len(texts) else texts)
