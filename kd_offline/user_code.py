"""The boundary around calls of user code: environments, experts, factories, observers.

User code may raise anything: its own errors, ``SystemExit(0)``, errors that a command line handles,
``StopIteration`` inside a generator. Outside the boundary there is one error,
:class:`~kd_offline.errors.UserCodeError`, whose message names the code, the call, the place in the
episode and the original message. Only :class:`KeyboardInterrupt` passes, as it may be Ctrl-C. The
boundary cannot catch a process that ends itself (``os._exit``, a crash) or a call that never
returns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

from kd_offline.errors import UserCodeError
from kd_offline.untrusted_text import for_terminal

_LOG = logging.getLogger(__name__)
_LONGEST = 300  # characters of a message that are repeated
_GAP = " ... "


class calling:
    """Run the body of a ``with`` block as user code; its errors become ``UserCodeError``.

    Parameters
    ----------
    code
        The code in words: ``environment 'pettingzoo/maze:parallel_env'``.
    call
        The function that is called: ``step``.
    **where
        Position, such as ``agent="walker_0", step=3``; None is left out.

    Raises
    ------
    UserCodeError
        The body raised anything but KeyboardInterrupt; its cause is the original error.
    """

    __slots__ = ("_call", "_code", "_where")

    def __init__(self, code: str, call: str, **where: object) -> None:
        self._code, self._call, self._where = code, call, where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The error of an inner boundary already has the more precise position.
        if error is None or isinstance(error, KeyboardInterrupt) or type(error) is UserCodeError:
            return
        msg = f"{failure(self._code, self._call, **self._where)}: {described(error)}; correct it"
        raise UserCodeError(msg) from error


def failure(code: str, call: str, **where: object) -> str:
    """Return ``code failed in call (where)``, the start of a message about user code."""
    facts = [
        f"{name.replace('_', ' ')} {value}" for name, value in where.items() if value is not None
    ]
    position = f" ({', '.join(facts)})" if facts else ""
    return plain(f"{code} failed in {call}{position}")


def described(error: BaseException) -> str:
    """Return type and message of an error as one short line of printable text."""
    try:
        text = str(error)
    except BaseException:
        text = ""
    name = plain(type(error).__name__)
    return f"{name}: {message}" if (message := plain(text)) else name


def plain(text: str) -> str:
    """Return untrusted text as one line of visible characters, shortened in the middle."""
    if len(text) > 100 * _LONGEST:  # no more work than is shown
        text = text[: 50 * _LONGEST] + _GAP + text[-50 * _LONGEST :]
    line = " ".join(text.split())
    if len(line) > _LONGEST:
        line = line[: _LONGEST * 2 // 3].rstrip() + _GAP + line[-_LONGEST // 3 :].lstrip()
    return for_terminal(line)


class Closable(Protocol):
    """Anything with a ``close`` method, such as an environment."""

    def close(self) -> Any:
        """Release its resources."""
        ...


def close_all(closables: Iterable[Closable]) -> None:
    """Close all objects at the end of an operation; a failure is logged and otherwise ignored.

    The results exist by then, and an error that ended the operation matters more.
    """
    for closable in closables:
        try:
            with calling(f"{type(closable).__name__}", "close"):
                closable.close()
        except UserCodeError as error:
            _LOG.warning("%s", error)


@contextmanager
def closed_on_failure(closable: Closable) -> Iterator[None]:
    """Close an object if the body fails; afterwards it is the caller's to close."""
    try:
        yield
    except BaseException:
        close_all([closable])
        raise
