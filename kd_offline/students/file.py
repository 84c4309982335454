"""The file of students, checked without PyTorch: a card, and the weights of teams."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from kd_offline.errors import (
    CheckpointError,
    FormatVersionError,
    NoCheckpointError,
    UsageError,
)
from kd_offline.networks.files import TensorFile, read_tensors
from kd_offline.schemas.student import StudentCard
from kd_offline.strict_json import parse
from kd_offline.students.families import FAMILIES, settings_of

STUDENTS = "students.safetensors"
CARD = "card"  # of the file's metadata
REMEDY = "distil them again"


@dataclass(frozen=True, slots=True)
class StudentsFile:
    """Content of ``students.safetensors``: weights are named ``<seed>.<name>``."""

    card: StudentCard
    file: TensorFile

    def digests(self) -> dict[int, str]:
        """Return the digest of every team's weights, by seed."""
        return {seed: self.file.weights_digest(f"{seed}.") for seed in self.card.seeds}


def read_students(path: Path, *, of_file: str | None = None) -> StudentsFile:
    """Read the students of a run folder, or of a ``students.safetensors``.

    Parameters
    ----------
    path : path
    of_file
        ``sha256:<hex>`` of the whole file, where that is known.

    Raises
    ------
    CheckpointError, StorageError
        There are none, or the file was altered.
    FormatVersionError
        It was written by a newer version.
    UnknownNameError, MismatchError
        The student family is not installed, or is of another version.
    """
    path = path / STUDENTS if path.is_dir() else path
    if not os.path.lexists(path):
        msg = f"there are no students at {str(path)!r}: give a folder made by kd-offline distill"
        raise NoCheckpointError(msg)
    file = read_tensors(path, REMEDY, of_file=of_file, required=False)
    try:
        card = StudentCard.model_validate(parse(file.metadata.get(CARD, "").encode(), utf8=True))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the card"
        msg = f"{str(path)!r} is damaged: {where}: {first['msg']}; {REMEDY}"
        raise CheckpointError(msg[:500]) from None
    except ValueError as error:
        msg = f"{str(path)!r} holds no students: its card is no readable JSON ({error}); {REMEDY}"
        raise CheckpointError(msg) from None
    newest: tuple[int, int] = StudentCard.model_fields["format_version"].default
    if card.format_version[0] > newest[0]:
        msg = (
            f"{str(path)!r} has format {card.format_version[0]}.{card.format_version[1]}, this "
            f"version reads up to {newest[0]}.{newest[1]}: install a newer kd-offline"
        )
        raise FormatVersionError(msg)
    card = _with_settings(card, path)
    if of_file is None and not file.sealed and card.format_version >= card.SEALED_SINCE:
        msg = f"{str(path)!r} is damaged: its metadata does not hold its digest; {REMEDY}"
        raise CheckpointError(msg)
    return StudentsFile(card, file)


def _with_settings(card: StudentCard, path: Path) -> StudentCard:
    """Return a card whose networks' settings are those that their family declares."""
    said = f"the file of students {str(path)!r}"
    FAMILIES.require_versions(card.parts, asked_by=said)
    FAMILIES.require(card.architecture.family, asked_by=said)
    try:
        settings = settings_of(card.architecture)
    except UsageError as error:
        msg = f"{str(path)!r} is damaged: {error}; {REMEDY}"
        raise CheckpointError(msg[:500]) from None
    return card.model_copy(update={"architecture": settings})
