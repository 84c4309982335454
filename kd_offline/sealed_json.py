r"""JSON files that carry the digest of their own bytes, so that any altered byte is noticed.

A sealed file ends with exactly ``,\n "manifest_digest": "sha256:<hex>"\n}\n``; the digest is the
sha256 of every byte before that ending.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from kd_offline.strict_json import parse

_FIELD = b',\n "manifest_digest": "'
_END = b'"\n}\n'
_TAIL = len(_FIELD) + len("sha256:") + 64 + len(_END)


def digest(data: bytes | memoryview) -> str:
    """Return ``sha256:<hex>`` of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def seal(document: dict[str, Any]) -> bytes:
    """Return the sealed text of a non-empty ``document`` (without ``manifest_digest``)."""
    text = json.dumps(document, indent=1, allow_nan=False).encode("ascii")
    body = text.removesuffix(b"\n}")
    return body + _FIELD + digest(body).encode("ascii") + _END


def is_sealed(text: bytes) -> bool:
    """Tell whether ``text`` ends with the digest of what comes before."""
    end = _FIELD + digest(memoryview(text)[:-_TAIL]).encode("ascii") + _END
    return text[-_TAIL:] == end


def unseal(text: bytes) -> dict[str, Any] | None:
    """Return the document, ``manifest_digest`` included, or None if its bytes were altered."""
    if not is_sealed(text):
        return None
    try:
        document = parse(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
