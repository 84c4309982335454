"""Parents of a dataset: opening them, and the record of what was made from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_offline.datasets.format.layout import NEWEST_VERSION
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.addresses import split_pin
from kd_offline.errors import FormatVersionError, UsageError
from kd_offline.schemas.dataset import LineageRecord


def open_parent(address: str | Path) -> ExpertBuffer:
    """Open a dataset from which another one is to be made.

    Raises
    ------
    FormatVersionError
        It was written in a newer minor version: what this version does not know would be lost.
    DatasetError
        As opening does.
    """
    buffer = ExpertBuffer.open(address)
    major, minor = buffer.manifest.format_version
    if (major, minor) > NEWEST_VERSION:
        msg = (
            f"the dataset at {buffer.where!r} has format {major}.{minor}, which this version reads "
            "but cannot rewrite without losing what it does not know: install a newer kd-offline"
        )
        raise FormatVersionError(msg)
    return buffer


def check_output(output: str | Path, parents: Sequence[ExpertBuffer]) -> Path:
    """Return the folder of the result, which may not be, contain or lie in a parent.

    Raises
    ------
    UsageError
        The result is no folder on this machine, or it and a parent would share one.
    """
    root = Path(output).expanduser()
    if ":/" in str(output) or root.suffix == ".zip":
        msg = (
            f"the result cannot be written to {str(output)!r}: give a folder, and push or pack it "
            "afterwards"
        )
        raise UsageError(msg)
    resolved = root.resolve()
    for parent in parents:
        address, _ = split_pin(parent.where)
        parent_root = Path(address).expanduser().resolve()
        same = resolved.exists() and parent_root.exists() and resolved.samefile(parent_root)
        if (
            same
            or resolved in (parent_root, *parent_root.parents)
            or parent_root in resolved.parents
        ):
            msg = (
                f"the result cannot be written to {str(output)!r}, where its parent "
                f"{parent.where!r} lies: a finished dataset never changes in place, so choose "
                "another output"
            )
            raise UsageError(msg)
    return root


def lineage(
    operation: str, parents: Sequence[ExpertBuffer], arguments: Mapping[str, Any]
) -> tuple[LineageRecord, ...]:
    """Return the steps of all parents, each once, and ``operation`` as the last step.

    Arguments that are None, False or empty are left out.
    """
    steps: list[LineageRecord] = []
    for parent in parents:
        *before, last = parent.manifest.lineage or (None,)
        ended = last and last.model_copy(update={"result": last.result or parent.id})
        steps += [step for step in (*before, ended) if step and step not in steps]
    given_arguments = {key: value for key, value in arguments.items() if _is_given(value)}
    ids = tuple(parent.id for parent in parents)
    return (*steps, LineageRecord(operation=operation, parents=ids, arguments=given_arguments))


def _is_given(value: Any) -> bool:
    return value is not None and value is not False and value not in ((), [], {}, "")


def next_version(version: str, part: str) -> str:
    """Return a semantic version with its ``minor`` or ``patch`` number raised by one."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    major, minor, patch = map(int, numbers.groups()) if numbers else (1, 0, 0)
    return f"{major}.{minor + 1}.0" if part == "minor" else f"{major}.{minor}.{patch + 1}"
