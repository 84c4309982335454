"""The commands that make a dataset again, from its manifest."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from kd_offline.schemas.dataset import DatasetManifest, LineageRecord

_RESULT = "dataset.zarr"
_EDITS = ("split", "filter", "merge", "append", "relabel-masks", "annotate")
_OPERATIONS = {name: name for name in _EDITS} | {"arrays": "pull"}
_NOT_OPTIONS = {"recordings", "dropped_episodes"}
_OPTIONS = {"left_out": "without", "masks": "mask"}
_FLAGS = {"keep": "--allow-duplicates", "drop": "--drop-duplicates"}


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
    arguments = ["record", spec.id, "-o", _RESULT]
    arguments += ["--expert", expert if expert.startswith(("bundled", "python:")) else "expert/"]
    arguments += ["--episodes", str(recording.episodes), "--seed", str(recording.seed)]
    arguments += ["--noise", noise or "none", "--batch", str(recording.batch)]
    partner = str(recording.settings.get("partner", "none"))
    arguments += ["--partner", partner if partner in ("none", "bundled") else "run/"]
    for setting, option in (
        ("partner_share", "--partner-share"),
        ("embedding_dtype", "--embedding"),
    ):
        if setting in recording.settings:
            arguments += [option, str(recording.settings[setting])]
    for name, value in spec.kwargs.items():
        arguments += ["--env", f"{name}={value}"]
    for mask in manifest.masks:
        arguments += ["--mask", mask]
    return _command_line(arguments)


def _edit_command(step: LineageRecord) -> str:
    if step.operation not in _OPERATIONS:
        return f"# {step.operation} of {', '.join(map(_file_name, step.parents))}"
    arguments = [_OPERATIONS[step.operation], *(_file_name(parent) for parent in step.parents)]
    arguments += ["-o", _file_name(step.result) if step.result else _RESULT]
    for name, value in step.arguments.items():
        if name not in _NOT_OPTIONS:
            arguments += _option_arguments(name, value)
    return _command_line(arguments)


def _option_arguments(name: str, value: Any) -> Iterator[str]:
    option = f"--{_OPTIONS.get(name, name)}".replace("_", "-")
    if name == "duplicates":
        yield _FLAGS.get(str(value), "")
    elif name in ("episodes", "arrays"):
        yield from (option, (":" if name == "episodes" else ",").join(map(str, value)))
    elif isinstance(value, dict):
        yield from (option, ",".join(f"{key}:{share:g}" for key, share in value.items()))
    elif isinstance(value, list):
        for entry in value:
            yield from (option, str(entry))
    else:
        yield option
        if value is not True:
            yield str(value)


def _file_name(digest: str) -> str:
    return f"{digest.removeprefix('sha256:')[:8]}.zarr"


def _command_line(arguments: list[str]) -> str:
    return shlex.join(["kd-offline", *(word for word in arguments if word)])
