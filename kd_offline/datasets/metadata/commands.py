"""The commands that make a dataset again, from its manifest."""

from __future__ import annotations

from typing import Any

from kd_offline.commands import command_text
from kd_offline.schemas.dataset import DatasetManifest, LineageRecord

_RESULT = "dataset.zarr"
_EDITS = ("split", "filter", "merge", "append", "relabel-masks", "annotate")
_OPERATIONS = {name: name for name in _EDITS} | {"arrays": "pull"}
_NOT_OPTIONS = {"recordings", "dropped_episodes"}
_OPTIONS = {"left_out": "without", "masks": "mask"}
_FLAGS = {"keep": "allow_duplicates", "drop": "drop_duplicates"}


def commands(manifest: DatasetManifest) -> list[str]:
    """Return command lines; empty if another program recorded the dataset.

    Intermediate datasets are named by the first digits of their ids.
    """
    if manifest.lineage:
        return [_edit_command(step) for step in manifest.lineage]
    return [_record_command(manifest)] if "kd_offline" in manifest.recording.software else []


def _record_command(manifest: DatasetManifest) -> str:
    recording, spec = manifest.recording, manifest.environment
    recorded = manifest.sole_expert  # a recording has one expert; only merges add others
    expert = recorded.reference if recorded else "bundled"
    noise = ",".join(f"{part.level:g}:{part.share:g}" for part in recording.noise)
    partner = str(recording.settings.get("partner", "none"))
    return command_text(
        *("record", spec.id, "-o", _RESULT),
        expert=expert if expert.startswith(("bundled", "python:")) else "expert/",
        episodes=recording.episodes,
        seed=recording.seed,
        noise=noise or "none",
        batch=recording.batch,
        partner=partner if partner in ("none", "bundled") else "run/",
        partner_share=recording.settings.get("partner_share"),
        embedding=recording.settings.get("embedding_dtype"),
        env=[f"{name}={value}" for name, value in spec.kwargs.items()],
        mask=list(manifest.masks),
    )


def _edit_command(step: LineageRecord) -> str:
    if step.operation not in _OPERATIONS:
        return f"# {step.operation} of {', '.join(map(_file_name, step.parents))}"
    arguments = [_OPERATIONS[step.operation], *(_file_name(parent) for parent in step.parents)]
    arguments += ["-o", _file_name(step.result) if step.result else _RESULT]
    options: dict[str, object] = {}
    for name, value in step.arguments.items():
        if name == "duplicates":
            options |= {_FLAGS[value]: True} if value in _FLAGS else {}
        elif name not in _NOT_OPTIONS:
            options[_OPTIONS.get(name, name)] = _value(name, value)
    return command_text(*arguments, **options)


def _value(name: str, value: Any) -> object:
    """Return the value of the option that stands for an argument of an operation."""
    if name in ("episodes", "arrays"):
        return (":" if name == "episodes" else ",").join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{key}:{share:g}" for key, share in value.items())
    return value


def _file_name(digest: str) -> str:
    return f"{digest.removeprefix('sha256:')[:8]}.zarr"
