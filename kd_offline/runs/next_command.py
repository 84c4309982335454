"""Which command comes after a distillation, as one types it."""

from __future__ import annotations

import shlex
from pathlib import Path

from kd_offline import code_guard
from kd_offline.errors import UsageError
from kd_offline.schemas.run import RunManifest
from kd_offline.untrusted_text import for_terminal


def evaluate_command(manifest: RunManifest, run: str | Path) -> str:
    """Return the command that evaluates a run, with what a file may not choose named in it.

    An expert whose place no file states is ``FOLDER`` or ``PLACE`` there, for the user to fill in.
    """
    words = ["kd-offline", "evaluate", str(run)]
    try:
        settings = manifest.environment_kwargs
        code_guard.check_environment(manifest.environment, settings, asked_by="the run")
    except UsageError:
        words += ["--environment", manifest.environment]
    expert = manifest.expert_reference
    try:
        code_guard.check_expert(expert, asked_by="the run", option="--expert")
    except UsageError:
        elsewhere = "FOLDER" if expert == "trained" else f"{expert}:PLACE"
        words += ["--expert", expert if ":" in expert else elsewhere]
    return for_terminal(shlex.join(words))
