"""The command that follows a distillation, quoted for a shell."""

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

    It names environments and experts that a file may not choose, so that using the command is the
    user's consent; :func:`code_that_runs` describes their code. A name that cannot be shown as it
    is, or that the dataset does not state in full, is left to the user as ``NAME``, ``EXPERT`` or
    ``epymarl:PLACE``.
    """
    environment, expert = _guarded(manifest)
    if environment and not _plain(environment):
        environment = "NAME"
    if expert and not (_plain(expert) and expert.startswith("python:")):
        is_library = expert.isascii() and expert.isalpha() and expert != "trained"
        expert = f"{expert}:PLACE" if is_library else "EXPERT"
    return command_text("evaluate", run, environment=environment or None, expert=expert or None)


def code_that_runs(manifest: RunManifest) -> str:
    """Return a sentence on whose code :func:`evaluate_command` runs; empty where it is ours."""
    environment, expert = _guarded(manifest)
    unusual_settings = code_guard.unsafe_settings(environment, manifest.environment_kwargs)
    settings = (
        f" with {for_terminal(code_guard.listed(unusual_settings), _LONGEST)}"
        if unusual_settings
        else ""
    )
    stated = [f"the environment {_shown(environment)}{settings}"] if environment else []
    stated += [f"the expert {_shown(expert)}"] if ":" in expert else []
    if not stated:
        return ""
    pronoun = "them" if len(stated) > 1 else "it"
    return (
        f"{' and '.join(stated)} came with the dataset, and this command runs the code of "
        f"{pronoun}: use it only if you trust {pronoun}"
    )


def _plain(name: str) -> bool:
    """Return whether a name can be shown in a command as it is."""
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
