"""Which command comes after a distillation, as one types it."""

from __future__ import annotations

from pathlib import Path

from kd_offline import code_guard
from kd_offline.commands import command_text
from kd_offline.errors import UsageError
from kd_offline.schemas.run import RunManifest
from kd_offline.untrusted_text import for_terminal

_LONGEST = 200  # characters of a name that is part of a command


def evaluate_command(manifest: RunManifest, run: str | Path) -> str:
    """Return the command that evaluates a run, quoted for a shell.

    What no file may choose is named in it as the dataset states it: whoever uses the command names
    it, and :func:`code_that_runs` says whose code that is. A name that cannot be shown as it is, or
    that the dataset does not state in full, is left to the user as ``NAME``, ``EXPERT`` or
    ``epymarl:PLACE``.
    """
    environment, expert = _guarded(manifest)
    if environment and not _plain(environment):
        environment = "NAME"
    if expert and not (_plain(expert) and expert.startswith("python:")):
        library = expert.isascii() and expert.isalpha() and expert != "trained"
        expert = f"{expert}:PLACE" if library else "EXPERT"
    return command_text("evaluate", run, environment=environment or None, expert=expert or None)


def code_that_runs(manifest: RunManifest) -> str:
    """Return whose code :func:`evaluate_command` runs, in a sentence; empty where it is ours."""
    environment, expert = _guarded(manifest)
    odd = code_guard.odd_settings(environment, manifest.environment_kwargs)
    settings = f" with {for_terminal(code_guard.listed(odd), _LONGEST)}" if odd else ""
    stated = [f"the environment {_shown(environment)}{settings}"] if environment else []
    stated += [f"the expert {_shown(expert)}"] if ":" in expert else []
    if not stated:
        return ""
    it = "them" if len(stated) > 1 else "it"
    return (
        f"{' and '.join(stated)} came with the dataset, and this command runs the code of {it}: "
        f"use it only if you trust {it}"
    )


def _plain(name: str) -> bool:
    """Tell whether a name can be shown in a command just as it is."""
    short = 0 < len(name) <= _LONGEST
    return short and name.isascii() and name.isprintable() and not name.startswith("-")


def _shown(name: str) -> str:
    return repr(for_terminal(name, _LONGEST))


def _guarded(manifest: RunManifest) -> tuple[str, str]:
    """Return environment and expert of a run, each empty where a file may choose it."""
    environment, expert = manifest.environment, manifest.expert_reference
    try:
        settings = manifest.environment_kwargs
        code_guard.check_environment(environment, settings, asked_by="the run")
        environment = ""
    except UsageError:
        pass
    try:
        code_guard.check_expert(expert, asked_by="the run")
        expert = ""
    except UsageError:
        expert = expert or "trained"
    return environment, expert
