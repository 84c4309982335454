"""Standard streams: stdout holds what was asked for and nothing else; stderr never stops the work.

While a command runs, ``sys.stdout`` is ``sys.stderr``, and in a process of our own the file
descriptor 1 is the descriptor 2: what code of the user, C libraries and child processes print
cannot get between the lines of a document.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from kd_offline.errors import StorageError

_OUT: list[TextIO] = []


class ReaderLeftError(Exception):
    """Whoever read stdout stopped reading, as ``head -1`` does."""


def take_over() -> None:
    """Make the standard streams of this process safe; called once, at its start.

    Descriptors that were closed are opened on the null device, so that no file of ours gets their
    numbers. Characters that the encoding of a stream lacks are written as escapes. What is written
    to a stderr that takes nothing (a full disk, a reader that left) is dropped.
    """
    _reopen_closed()
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    documents = io.FileIO(os.dup(1), "w")
    out_encoding, err_encoding = _encoding(sys.stdout), _encoding(sys.stderr)
    os.dup2(2, 1)
    sys.stderr = _text(_Tolerant(), err_encoding)
    sys.stdout = _text(documents, out_encoding)


def _reopen_closed() -> None:
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _text(raw: io.RawIOBase, encoding: str) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True
    )


class _Tolerant(io.RawIOBase):
    """The descriptor 2, whose failures are nobody's: there is no place left to report them."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        try:
            return os.write(2, data)
        except OSError:
            return len(data)


@contextmanager
def reserved() -> Iterator[None]:
    """Keep stdout for :func:`write`; whatever else is printed inside goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr
    _OUT.append(out)
    try:
        yield
    finally:
        _OUT.pop()
        sys.stdout = out


def write(text: str) -> None:
    """Write ``text`` to the stdout of the command.

    Raises
    ------
    ReaderLeftError
        Nobody reads it any more.
    StorageError
        It takes nothing: a full disk.
    """
    out = _OUT[-1] if _OUT else sys.stdout
    try:
        out.write(text)
        out.flush()
    except BrokenPipeError:
        raise ReaderLeftError from None
    except OSError as error:
        msg = f"cannot write to the standard output: {error.strerror}; everything else was done"
        raise StorageError(msg) from error


def encodable(text: str) -> bool:
    """Tell whether stdout has every character of ``text``."""
    out = _OUT[-1] if _OUT else sys.stdout
    try:
        text.encode(_encoding(out))
    except UnicodeEncodeError:
        return False
    return True


def note(text: str) -> None:
    """Write ``text`` to stderr, where that takes it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
