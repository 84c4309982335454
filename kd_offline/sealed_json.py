r"""JSON files that hold the digest of their own bytes, so that any altered byte is noticed.

A sealed file ends with exactly ``,\n "<field>": "sha256:<hex>"\n}\n``; the digest is the sha256 of
every byte before that ending. The field of a dataset's manifest is ``manifest_digest``, that of
every other document ``digest``.

A digest detects damage and mistakes. It does not detect forgery: whoever can rewrite a file can
compute its digest again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from kd_offline.errors import (
    CheckpointError,
    FormatVersionError,
    UnknownNameError,
    UnsealedWarning,
)
from kd_offline.files import MAX_DOCUMENT_BYTES, read_file, write_file
from kd_offline.schemas.document import DIGEST, Document, LinesRecord
from kd_offline.strict_json import is_printable, parse

MANIFEST_DIGEST = "manifest_digest"
_END = b'"\n}\n'
_REPLACEMENT = "\ufffd"
_LONGEST_REASON = 300  # characters; the reason quotes keys and values of the file

Model = TypeVar("Model", bound=Document)


def digest(data: bytes | memoryview) -> str:
    """Return ``sha256:<hex>`` of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def canonical_json(value: object) -> bytes:
    """Return the canonical encoding for digests: sorted keys, no spaces, ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def seal(document: dict[str, Any], field: str = MANIFEST_DIGEST) -> bytes:
    """Return the sealed text of a non-empty ``document`` (without ``field``)."""
    text = json.dumps(document, indent=1, allow_nan=False).encode("ascii")
    body = text.removesuffix(b"\n}")
    return body + _ending(body, field)


def is_sealed(text: bytes, field: str = MANIFEST_DIGEST) -> bool:
    """Return whether ``text`` ends with the digest of the bytes before."""
    length = len(_ending_start(field)) + len("sha256:") + 64 + len(_END)
    return text[-length:] == _ending(memoryview(text)[:-length], field)


def unseal(text: bytes, field: str = MANIFEST_DIGEST) -> dict[str, Any] | None:
    """Return the document, ``field`` included; None if its bytes were altered."""
    if not is_sealed(text, field):
        return None
    try:
        document = parse(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def sealed_text(model: Document, *, nulls: bool = True) -> bytes:
    """Return the sealed text of a document; ``nulls=False`` leaves out keys whose value is None.

    Characters that :func:`read_document` would refuse, such as control characters of a path, are
    replaced, so that the document can be read again.
    """
    content = model.model_dump(mode="json", exclude_none=not nulls)
    return seal(_replace_unreadable(content), DIGEST)


def write_document(file: Path, model: Document, *, nulls: bool = True) -> None:
    """Replace ``file`` by a sealed document; raises as :func:`~kd_offline.files.write_file`."""
    write_file(file, sealed_text(model, nulls=nulls))


def read_document(model: type[Model], file: Path, remedy: str) -> Model:
    """Read and check a document that :func:`write_document` wrote.

    A document of an older version without a digest is read with an ``UnsealedWarning``.

    Parameters
    ----------
    model
        The type of the document.
    file : path
        A plain file; links are not followed.
    remedy
        What the user can do about a damaged one, such as ``distil again``.

    Raises
    ------
    StorageError
        There is no plain file, or it is too large.
    CheckpointError
        It is no such document, or its bytes were altered.
    FormatVersionError
        It was written by a newer version.
    """
    return parse_document(model, read_file(file, MAX_DOCUMENT_BYTES), file, remedy)


def parse_document(model: type[Model], text: bytes, file: Path, remedy: str) -> Model:
    """Return the document in ``text``; raises as :func:`read_document` about ``file``."""

    def damaged(what: str) -> NoReturn:
        msg = f"{str(file)!r} {what[:_LONGEST_REASON]}; {remedy}"
        raise CheckpointError(msg) from None

    document: Any = None
    try:
        document = parse(text, utf8=True)
    except ValueError as error:
        damaged(f"is damaged: it is no readable JSON ({error})")
    if not isinstance(document, dict):
        damaged("is damaged: it holds no JSON object")
    field, newest = _newest(model)
    version = _version(document.get(field))
    if version is None and field in document:
        damaged(f"is damaged: its {field} is not two integers")
    if version is not None and version[0] > newest[0]:
        raise FormatVersionError(_too_new(file, version, newest))
    if DIGEST in document and not is_sealed(text, DIGEST):
        damaged("does not match its own digest: it was damaged, or edited by hand")
    sealed = document.pop(DIGEST, None) is not None
    if not sealed and version is not None and version >= model.SEALED_SINCE:
        damaged("is damaged: it does not end with its digest")
    try:
        parsed = model.model_validate(document)
    except ValidationError as error:
        if version is not None and version > newest:
            raise FormatVersionError(_too_new(file, version, newest)) from None
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, UnknownNameError):  # of a part that is not installed here
            msg = f"{str(file)!r} cannot be used here: {cause}"
            raise CheckpointError(msg) from None
        given = f" is {first['input']}" if isinstance(first["input"], int | float) else ""
        location = f"{'.'.join(map(str, first['loc']))}{given}: " if first["loc"] else ""
        damaged(f"is damaged: {location}{first['msg'].removeprefix('Value error, ')}")
    if not sealed:
        msg = (
            f"{str(file)!r} was written before such files had digests, so damage to it is not "
            f"noticed: {remedy} to give it one"
        )
        warnings.warn(msg, UnsealedWarning, stacklevel=3)
    return parsed


def lines_record(content: bytes) -> LinesRecord:
    """Return size and digest of a file of lines, as a document records them."""
    return LinesRecord(bytes=len(content), digest=digest(content))


def holds(record: LinesRecord, content: bytes) -> bool:
    """Return whether a file of lines starts with the lines of a record."""
    return len(content) >= record.bytes and record.digest == digest(content[: record.bytes])


def _ending_start(field: str) -> bytes:
    return f',\n "{field}": "'.encode("ascii")


def _ending(body: bytes | memoryview, field: str) -> bytes:
    return _ending_start(field) + digest(body).encode("ascii") + _END


def _newest(model: type[Document]) -> tuple[str, tuple[int, int]]:
    """Return the version field of a document type, and the newest version that can be read."""
    field = next(name for name in ("version", "format_version") if name in model.model_fields)
    return field, model.model_fields[field].default


def _version(stated: Any) -> tuple[int, int] | None:
    if isinstance(stated, list) and len(stated) == 2 and all(type(n) is int for n in stated):
        return stated[0], stated[1]
    return None


def _too_new(file: Path, version: tuple[int, int], newest: tuple[int, int]) -> str:
    return (
        f"{str(file)!r} has format {version[0]}.{version[1]}, this version reads up to "
        f"{newest[0]}.{newest[1]}: install a newer kd-offline"
    )


def _replace_unreadable(value: Any) -> Any:
    if isinstance(value, str):
        if is_printable(value):
            return value
        return "".join(c if is_printable(c) else _REPLACEMENT for c in value)
    if isinstance(value, dict):
        return {_replace_unreadable(key): _replace_unreadable(item) for key, item in value.items()}
    return [_replace_unreadable(item) for item in value] if isinstance(value, list) else value
