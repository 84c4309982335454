"""Whose signatures count: public keys, and ``allowed_signers`` files as OpenSSH reads them."""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

from kd_offline.errors import UsageError

_KEY_TYPE = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+")
_TIME = re.compile(r"\d{8}(\d{4}(\d{2})?)?Z?")


@dataclass(frozen=True, slots=True)
class Signer:
    """One key that may sign, with the name that its owner goes by."""

    name: str
    key: bytes  # wire format
    namespaces: str = "*"
    after: datetime | None = None
    before: datetime | None = None

    def may_sign(self, namespace: str, now: datetime) -> bool:
        """Tell whether the key counts in ``namespace`` at the time ``now``."""
        early = self.after is not None and now < self.after
        late = self.before is not None and now > self.before
        return not early and not late and _matches(namespace, self.namespaces)


def read_public_key(key: str | Path) -> Signer:
    """Return the signer of a public key: a ``.pub`` file or its one line of text.

    Raises
    ------
    UsageError
        It cannot be read or is no public key.
    """
    given = str(key)
    text = given if _KEY_TYPE.match(given) and " " in given else _read(Path(given).expanduser())
    fields = text.split(maxsplit=2)
    found = _wire(fields[:2])
    if found is None:
        msg = f"{given!r} holds no public key: give the file that ends in .pub, or its line"
        raise UsageError(msg)
    return Signer(fields[2].strip() if len(fields) > 2 else given, found)


def read_allowed_signers(path: str | Path) -> list[Signer]:
    """Return the signers of an ``allowed_signers`` file; lines of authorities are left out.

    Raises
    ------
    UsageError
        It cannot be read, or a line is not what ssh-keygen's manual describes.
    """
    signers: list[Signer] = []
    for number, line in enumerate(_read(Path(path).expanduser()).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            signers += _signers(line)
        except ValueError:
            msg = (
                f"line {number} of {str(path)!r} is not an allowed signer: write it as "
                'alice@example.org namespaces="kd-offline-dataset" ssh-ed25519 AAAA...'
            )
            raise UsageError(msg) from None
    return signers


def _signers(line: str) -> Iterator[Signer]:
    fields = _fields(line)
    given = {} if _KEY_TYPE.fullmatch(fields[1]) else _options(fields.pop(1))
    key = _wire(fields[1:3])
    if key is None:
        raise ValueError
    if "cert-authority" not in given:
        yield Signer(
            fields[0],
            key,
            given.get("namespaces", "*"),
            _time(given.get("valid-after")),
            _time(given.get("valid-before")),
        )


def _fields(line: str) -> list[str]:
    words = shlex.shlex(line, posix=True)
    words.whitespace_split, words.quotes, words.commenters, words.escape = True, '"', "", ""
    fields = list(words)
    if len(fields) < 3:
        raise ValueError
    return fields


def _options(text: str) -> dict[str, str]:
    """Read ``namespaces=a,b,valid-after=20250101``: what has no name goes on with the last one."""
    found: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals or name.lower() == "cert-authority":
            last = name.lower()
            found[last] = value
        elif last == "namespaces":
            found[last] += f",{part}"
        else:
            raise ValueError
    if not found.keys() <= {"cert-authority", "namespaces", "valid-after", "valid-before"}:
        raise ValueError
    return found


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    if not _TIME.fullmatch(text):
        raise ValueError
    digits = text.removesuffix("Z")
    when = datetime.strptime(digits.ljust(14, "0"), "%Y%m%d%H%M%S")
    return when.astimezone() if digits == text else datetime.fromisoformat(f"{when}+00:00")


def _wire(fields: list[str]) -> bytes | None:
    """Return the key of ``["ssh-ed25519", "AAAA..."]``, None if that is not one."""
    if len(fields) < 2 or not _KEY_TYPE.fullmatch(fields[0]):
        return None
    try:
        return base64.b64decode(fields[1], validate=True)
    except (binascii.Error, ValueError):
        return None


def _matches(namespace: str, patterns: str) -> bool:
    """Apply a pattern list: one must match, and none that begins with ``!``."""
    listed = patterns.split(",")
    refused = (p[1:] for p in listed if p.startswith("!"))
    return not any(fnmatchcase(namespace, p) for p in refused) and any(
        fnmatchcase(namespace, p) for p in listed
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        msg = f"cannot read {str(path)!r} ({reason}): check the path"
        raise UsageError(msg) from None
