"""What commands print. What was asked for goes to stdout, everything else to stderr.

Documents are printed always. With ``--quiet`` nothing else is, but errors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kd_offline.cli import streams
from kd_offline.untrusted_text import for_json, for_terminal

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kd_offline.tracking.base import Observer


@dataclass
class _State:
    """How the command that runs prints."""

    json: bool = False
    quiet: bool = False
    printed: bool = False  # a document
    network: int = 0  # bytes that were moved before it
    warned: set[str] = field(default_factory=set)


_NOW = [_State()]


def begin(json: bool) -> None:
    """Begin a command; ``json``: its one document, or its error, is asked for as JSON."""
    _NOW[0] = _State(json=json, network=_moved())


def be_quiet() -> None:
    """Print nothing more than documents and errors."""
    _NOW[0].quiet = True


def error_document_wanted() -> bool:
    """Tell whether JSON was asked for and nothing was printed so far."""
    return _NOW[0].json and not _NOW[0].printed


def emit(model: BaseModel, *, nulls: bool = False) -> None:
    """Print a model as the one JSON document, in ASCII, without the keys that have no value.

    A model that says what was moved over the network is told here.
    """
    if getattr(model, "bytes_moved", 0) is None and (moved := network_bytes()):
        model = model.model_copy(update={"bytes_moved": moved})
    document(for_json(model.model_dump_json(indent=2, exclude_none=not nulls)))


def document(text: str) -> None:
    """Print a document that a program or a file takes; it is printed with ``--quiet``, too."""
    _NOW[0].printed = True
    streams.write(text if text.endswith("\n") else f"{text}\n")


def markdown(text: str) -> None:
    """Print a Markdown document; characters that stdout lacks become entities."""
    if not streams.encodable(text):
        text = text.encode("ascii", "xmlcharrefreplace").decode("ascii")
    document(text)


def show(*lines: object) -> None:
    """Print the result for readers: every argument is one line on stdout."""
    if not _NOW[0].quiet:
        streams.write("".join(f"{for_terminal(line)}\n" for line in lines))


def say(*lines: object) -> None:
    """Print notes for people: every argument is one line on stderr."""
    if not _NOW[0].quiet:
        streams.note("".join(f"{for_terminal(line)}\n" for line in lines))


def say_error(text: str) -> None:
    """Print the one sentence of an error on stderr."""
    streams.note(f"error: {for_terminal(text)}\n")


def warn(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning once; it has the parameters of :func:`warnings.showwarning`."""
    text = " ".join(str(message).split())
    if text not in _NOW[0].warned:
        _NOW[0].warned.add(text)
        say(f"warning: {text}")


def network_bytes() -> int:
    """Return the bytes of datasets that the command moved over the network so far."""
    return _moved() - _NOW[0].network


def _moved() -> int:
    traffic = sys.modules.get("kd_offline.datasets.storage.traffic")  # nothing was moved without it
    return 0 if traffic is None else int(traffic.TRAFFIC.moved)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows in aligned columns, as lines."""
    cells = [[for_terminal(cell) for cell in row] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return [line.rstrip() for line in lines]


def terminal() -> Observer:
    """Return the observer that shows progress and notes on stderr; nothing with ``--quiet``."""
    from kd_offline.tracking.base import NullObserver
    from kd_offline.tracking.progress_bar import ProgressBar

    return NullObserver() if _NOW[0].quiet else ProgressBar(say)
