"""Which command comes after a distillation, as one types it."""

from __future__ import annotations

import shlex
from pathlib import Path

from kd_offline import code_guard
from kd_offline.errors import UsageError
from kd_offline.schemas.run import RunManifest
from kd_offline.untrusted_text import for_terminal


def evaluate_command(manifest: RunManifest, run: str | Path) -> str:
    """Return the command that evaluates a run, with options for what no file may choose.

    Their values are left to the user, as ``NAME``, ``EXPERT`` or ``epymarl:PLACE``: names are the
    dataset's, and a command like this is copied without a thought. :func:`to_be_named` has them.
    """
    words = ["kd-offline", "evaluate", str(run)]
    environment, expert = _guarded(manifest)
    words += ["--environment", "NAME"] if environment else []
    library = expert.isascii() and expert.isalpha() and expert != "trained"
    words += ["--expert", f"{expert}:PLACE" if library else "EXPERT"] if expert else []
    return shlex.join(words)


def to_be_named(manifest: RunManifest) -> str:
    """Return what a run states for these options, in words; empty where it states nothing."""
    environment, expert = _guarded(manifest)
    stated = [f"the environment {for_terminal(environment, 200)!r}"] if environment else []
    stated += [f"the expert {for_terminal(expert, 200)!r}"] if ":" in expert else []
    return f"recorded were {' and '.join(stated)}: name what you trust" if stated else ""


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
        code_guard.check_expert(expert, asked_by="the run", option="--expert")
        expert = ""
    except UsageError:
        expert = expert or "trained"
    return environment, expert
