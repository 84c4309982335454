"""Base classes of the JSON files that we write."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from kd_offline.schemas.environment import Strict

DIGEST = "digest"
"""Last field of a document: ``sha256:<hex>`` of all bytes before it."""


def _with_digest(schema: dict[str, Any]) -> None:
    schema["properties"][DIGEST] = {
        "type": "string",
        "pattern": "^sha256:[0-9a-f]{64}$",
        "description": "of all bytes before this last field; absent in files of older versions",
    }


class Document(Strict):
    """Base of a JSON file that we write, by :mod:`kd_offline.sealed_json`.

    Its ``version`` or ``format_version`` decides whether it has to end with its digest: files of
    older versions than ``SEALED_SINCE`` have none. The digest belongs to the file, not to the
    model.
    """

    model_config = ConfigDict(json_schema_extra=_with_digest)

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 0)


class LinesRecord(Strict):
    """Size and digest of the beginning of a file of lines, which may have grown since."""

    bytes: int = Field(ge=0)
    digest: str = Field(description="sha256 of these bytes")
