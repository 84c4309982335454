"""The one guard for what a file asks to run or to open: names of code, files and addresses.

Datasets, runs, experts, exports and recipes travel, and they name environments, experts and files.
What a user types or writes in Python is the user's own choice and does not come here. What stands
in a file is a stranger's, and passes only if it names what ships with kd-offline, PettingZoo's own
tasks, or what an installed plug-in offers; anything else has to be named by the user as well.
Nothing is imported to decide that.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from kd_offline.errors import UsageError

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


def check_environment(
    name: str,
    settings: Mapping[str, Any],
    *,
    asked_by: str,
    allowed: str | None = None,
    remedy: str = "pass --environment",
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
        How the user names it, in words that the name follows.

    Raises
    ------
    UsageError
        It may not run; the sentence says what to pass.
    """
    if allowed == name:
        return
    if allowed is not None:
        msg = (
            f"{asked_by} names the environment {_said(name)}, not {_said(allowed)}: pass "
            "--environment with the name that it states, or leave the option out"
        )
        raise UsageError(msg)
    place = name.removeprefix("pettingzoo/")
    familiar = bool(_ENVIRONMENT.fullmatch(name)) or _offered(ENVIRONMENTS, place)
    odd = odd_settings(name, settings)
    if familiar and not odd:
        return
    shown = odd if familiar else settings
    with_these = f" with {listed(shown)}" if shown else ""
    msg = (
        f"{asked_by} asks for the environment {_said(name)}{with_these}, which a file may not "
        f"start by itself: if you trust that code, {remedy} {_typed(name)}"
    )
    raise UsageError(msg)


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
    reference: str, *, asked_by: str, option: str, allowed: Collection[str] = ()
) -> None:
    """Refuse an expert that a file names, unless it is bundled, a plug-in's, or in ``allowed``.

    ``option`` is what the user names it with; the rest is as for :func:`check_environment`.

    Raises
    ------
    UsageError
        It may not be loaded; the sentence says what to pass.
    """
    if reference in allowed or _EXPERT.fullmatch(reference):
        return
    if reference.startswith("python:") and _offered(EXPERTS, reference.removeprefix("python:")):
        return
    msg = (
        f"{asked_by} asks for the expert {_said(reference)}, which a file may not load by itself: "
        f"if you trust it, pass {option} {_typed(reference)}"
    )
    raise UsageError(msg)


def check_name(name: str, *, what: str, asked_by: str, option: str) -> None:
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
        f"files are read: if you know that one, pass {option} {_typed(name)}"
    )
    raise UsageError(msg)


def check_address(address: str, *, asked_by: str, option: str) -> None:
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
        f"server is asked: if you know that address, pass {option} {_typed(address)}"
    )
    raise UsageError(msg)


def in_file(path: str | Path) -> str:
    """Return the words for what a file at ``path`` asks."""
    return f"the file {_said(str(path))}"


def _offered(group: str, place: str) -> bool:
    """Tell whether an installed plug-in offers ``module:factory``; nothing is imported."""
    return any(place in (entry.name, entry.value) for entry in entry_points(group=group))


def _said(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _typed(text: str) -> str:
    """Return a value as one types it in a shell; what cannot be printed stands for itself."""
    return shlex.quote(text) if text.isprintable() and len(text) <= _LONGEST else "NAME"


def listed(settings: Mapping[str, Any]) -> str:
    """Return the first settings of an environment in words."""
    few = [f"{_said(str(key))[1:-1]}={_said(str(value))}" for key, value in settings.items()][:5]
    return ", ".join([*few, "..."] if len(settings) > len(few) else few)
