"""The one guard for what a file asks to run or to open: names of code, files and addresses.

Datasets, runs, experts, exports and recipes travel, and they name environments, experts and files.
What a user types or writes in Python is the user's own choice and does not come here. What stands
in a file is a stranger's, and passes only if it names what ships with kd-offline, PettingZoo's own
tasks, or what an installed plug-in offers; anything else has to be named by the user as well.
Nothing is imported to decide that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from kd_offline.errors import Remedy, UsageError

ENVIRONMENTS, EXPERTS = "kd_offline.environments", "kd_offline.experts"
"""Groups of entry points by which an installed plug-in offers ``module:factory``."""

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


def check_environment(
    name: str,
    settings: Mapping[str, Any],
    *,
    asked_by: str,
    allowed: str | None = None,
    remedy: Remedy | None = None,
) -> None:
    """Refuse an environment that a file names, unless it is familiar or the user named it.

    Parameters
    ----------
    name, settings
        As the file states them. Settings of PettingZoo's tasks are numbers up to 1,000 and steps up
        to 1,000,000, true and false, and text only where it says how observations are coded; ours
        are checked by their environment.
    asked_by
        The file, in words: ``the run in 'run'``.
    allowed
        What the user named. It must be ``name``, and then any settings pass.
    remedy
        How the user names it; None: by the argument ``environment``.

    Raises
    ------
    UsageError
        It may not run; the sentence says what to pass.
    """
    if allowed == name:
        return
    if allowed is not None:
        msg = f"{asked_by} names the environment {_said(name)}, not {_said(allowed)}"
        stated = Remedy("pass", "with the name that it states", environment=...)
        raise UsageError(msg, stated, Remedy("leave it out"))
    place = name.removeprefix("pettingzoo/")
    familiar = bool(_ENVIRONMENT.fullmatch(name)) or _offered(ENVIRONMENTS, place)
    odd = odd_settings(name, settings)
    if familiar and not odd:
        return
    shown = odd if familiar else settings
    with_these = f" with {listed(shown)}" if shown else ""
    msg = (
        f"{asked_by} asks for the environment {_said(name)}{with_these}, which a file may not "
        "start by itself"
    )
    raise UsageError(msg, remedy or Remedy(_IF_CODE, environment=_typed(name)))


def odd_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an environment that a file may not state.

    Text may be a path, and a factory may make as many agents, walls or pixels as a number says.
    """
    if not name.startswith("pettingzoo/"):
        return {}
    return {key: value for key, value in settings.items() if not _harmless(key, value)}


def _harmless(key: str, value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return abs(value) <= (_LONGEST_EPISODE if key in _STEPS else _LARGEST)
    return key in _TEXT_SETTINGS


def check_expert(
    reference: str, *, asked_by: str, argument: str = "expert", allowed: Collection[str] = ()
) -> None:
    """Refuse an expert that a file names, unless it is bundled, a plug-in's, or in ``allowed``.

    ``argument`` is what the user names it with, such as ``expert`` or, for an entry of a mapping,
    ``settings.opponents``; the rest is as for :func:`check_environment`.

    Raises
    ------
    UsageError
        It may not be loaded; the sentence says what to pass.
    """
    if reference in allowed or _EXPERT.fullmatch(reference):
        return
    if reference.startswith("python:") and _offered(EXPERTS, reference.removeprefix("python:")):
        return
    msg = f"{asked_by} asks for the expert {_said(reference)}, which a file may not load by itself"
    raise UsageError(msg, _pass("if you trust it, pass", argument, reference))


def check_name(name: str, *, what: str, asked_by: str, argument: str) -> None:
    """Refuse ``what`` a file names where the name is the path of another file.

    Raises
    ------
    UsageError
        It is no plain word; the sentence says what to pass.
    """
    if _WORD.fullmatch(name):
        return
    msg = (
        f"{asked_by} asks for the {what} {_said(name)}, and a file may not choose which other "
        "files are read"
    )
    raise UsageError(msg, _pass("if you know that one, pass", argument, name))


def check_address(address: str, *, asked_by: str, argument: str) -> None:
    """Refuse the address of another machine that a file states.

    Raises
    ------
    UsageError
        It is a URL or a network share; the sentence says what to pass.
    """
    if "://" not in address and not address.startswith(("//", "\\\\", "/\\", "\\/")):
        return
    msg = (
        f"{asked_by} says that its dataset is at {_said(address)}, and a file may not choose which "
        "server is asked"
    )
    raise UsageError(msg, _pass("if you know that address, pass", argument, address))


def to_train(environment: str) -> Remedy:
    """Return what names an environment for a training."""
    before = "if you trust that code, run"
    return Remedy(before, operation="train_recipe", environment=_typed(environment))


def in_file(path: str | Path) -> str:
    """Return the words for what a file at ``path`` asks."""
    return f"the file {_said(str(path))}"


def _offered(group: str, place: str) -> bool:
    """Tell whether an installed plug-in offers ``module:factory``; nothing is imported."""
    return any(place in (entry.name, entry.value) for entry in entry_points(group=group))


def _said(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _typed(text: str) -> str:
    """Return a value that is to be passed; ``NAME`` stands for one that cannot be printed."""
    return text if text.isprintable() and len(text) <= _LONGEST else "NAME"


def _pass(before: str, argument: str, value: str) -> Remedy:
    name, _, path = argument.partition(".")
    given: Any = {path: _typed(value)} if path else _typed(value)
    return Remedy(before, **{name: given})


def listed(settings: Mapping[str, Any]) -> str:
    """Return the first settings of an environment in words."""
    few = [f"{_said(str(key))[1:-1]}={_said(str(value))}" for key, value in settings.items()][:5]
    return ", ".join([*few, "..."] if len(settings) > len(few) else few)
