"""The one border around calls into code that is not ours: environments, experts, their factories.

Such code may raise anything: errors of its own, ``SystemExit(0)``, errors that a command line
handles for itself, ``StopIteration`` inside a generator. Behind this border there is one error, a
:class:`~kd_offline.errors.UserCodeError`, whose sentence says who failed in which call, where in
which episode, and what was said. Only :class:`KeyboardInterrupt` passes: it cannot be told from
Ctrl-C. A process that ends itself (``os._exit``, a crash) or never returns is beyond any border.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol

from kd_offline.errors import UserCodeError
from kd_offline.untrusted_text import for_terminal

_LOG = logging.getLogger(__name__)
_LONGEST = 300  # characters of a message that are repeated
_GAP = " ... "


class calling:
    """Run the body of a ``with`` block as code that is not ours.

    Parameters
    ----------
    who
        Whose code it is, in words: ``environment 'pettingzoo/maze:parallel_env'``.
    call
        What is called: ``step``.
    **where
        What is known of the place; None is left out: ``agent="walker_0", step=3``.

    Raises
    ------
    UserCodeError
        The body raised anything but KeyboardInterrupt; the cause is what it raised.
    """

    __slots__ = ("_call", "_where", "_who")

    def __init__(self, who: str, call: str, **where: object) -> None:
        self._who, self._call, self._where = who, call, where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # An inner border knows more of the place than an outer one.
        if error is None or isinstance(error, KeyboardInterrupt) or type(error) is UserCodeError:
            return
        msg = f"{failure(self._who, self._call, **self._where)}: {described(error)}; correct it"
        raise UserCodeError(msg) from error


def failure(who: str, call: str, **where: object) -> str:
    """Return ``who failed in call (where)``, the beginning of a sentence about code not ours."""
    known = [
        f"{name.replace('_', ' ')} {value}" for name, value in where.items() if value is not None
    ]
    place = f" ({', '.join(known)})" if known else ""
    return plain(f"{who} failed in {call}{place}")


def described(error: BaseException) -> str:
    """Return the type and message of an error, as one short line of printable text."""
    try:
        text = str(error)
    except BaseException:
        text = ""
    name = plain(type(error).__name__)
    return f"{name}: {said}" if (said := plain(text)) else name


def plain(text: str) -> str:
    """Return text from outside as one line of visible characters, shortened in the middle."""
    if len(text) > 100 * _LONGEST:  # no more work than is shown
        text = text[: 50 * _LONGEST] + _GAP + text[-50 * _LONGEST :]
    line = " ".join(text.split())
    if len(line) > _LONGEST:
        line = line[: _LONGEST * 2 // 3].rstrip() + _GAP + line[-_LONGEST // 3 :].lstrip()
    return for_terminal(line)


class Closable(Protocol):
    """What holds something until it is closed, such as an environment."""

    def close(self) -> Any:
        """Release it."""
        ...


def close_all(things: Iterable[Closable]) -> None:
    """Close ``things`` at the end of work; a failure to close is logged and changes nothing.

    What was made is made by then, and an error that ended the work matters more.
    """
    for thing in things:
        try:
            with calling(f"{type(thing).__name__}", "close"):
                thing.close()
        except UserCodeError as error:
            _LOG.warning("%s", error)
