"""Parse untrusted JSON: unambiguous, of bounded depth, with text that is safe to print."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any, NoReturn

MAX_DEPTH = 64
# Every integer of the format fits 64 bits; Python would parse integers of any length.
_LONGEST_INTEGER = 20
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# Line breaks and tabs are text. Other control characters and changes of writing direction can
# deceive a reader, and surrogates cannot be printed.
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def parse(text: bytes, *, utf8: bool = False) -> Any:
    """Return the value of a JSON text in ASCII, or with ``utf8`` in UTF-8.

    Raises
    ------
    ValueError
        It is not JSON, or two readers could take it differently: other bytes, repeated keys, NaN or
        infinite numbers, integers of more than 20 digits, more than 64 levels, control characters.
    """
    try:
        decoded = text.decode("utf-8" if utf8 else "ascii")
    except UnicodeDecodeError:
        msg = f"it has bytes that are not {'UTF-8' if utf8 else 'ASCII'}"
        raise ValueError(msg) from None
    try:
        value = json.loads(
            decoded,
            object_pairs_hook=_object,
            parse_constant=_refuse_number,
            parse_int=_integer,
            parse_float=_float,
        )
    except RecursionError:
        value = None
        _refuse_depth()
    _check_depth(decoded)
    if b"\\" in text or not text.isascii():  # ASCII without escapes has no such characters
        _check_text(value)
    if b"\x7f" in text:
        _refuse_text()
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            msg = f"it has the key {key[:80]!r} twice"
            raise ValueError(msg)
        members[key] = value
    return members


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        _refuse_number(f"{digits[:8]}...")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        _refuse_number(digits[:40])
    return number


def _refuse_number(number: str) -> NoReturn:
    msg = f"it has the number {number}, which is not finite or too large"
    raise ValueError(msg)


def _refuse_depth() -> NoReturn:
    msg = f"it is nested more than {MAX_DEPTH} levels deep"
    raise ValueError(msg)


def _refuse_text() -> NoReturn:
    msg = "it has text with control characters"
    raise ValueError(msg)


def _children(value: Any) -> list[Any]:
    return list(value.values() if isinstance(value, dict) else value)


def _check_depth(text: str) -> None:
    """Raise if a JSON text is nested too deeply; only its brackets are examined."""
    outside_strings = text.replace("\\\\", "").replace('\\"', "").split('"')[::2]
    brackets = "".join(outside_strings).encode("ascii", "ignore").translate(_ALIKE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # removes the innermost level
    if brackets:
        _refuse_depth()


def _check_text(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += item.keys()
        if isinstance(item, dict | list):
            stack += _children(item)
        elif isinstance(item, str) and not is_printable(item):
            _refuse_text()


def is_printable(text: str) -> bool:
    """Return whether :func:`parse` accepts a text: no character can deceive a reader."""
    return text.isprintable() or not any(map(_is_deceptive, text))


def _is_deceptive(character: str) -> bool:
    return character not in "\n\t" and (
        unicodedata.category(character) in ("Cc", "Cs")
        or unicodedata.bidirectional(character) in _DIRECTIONS
    )
