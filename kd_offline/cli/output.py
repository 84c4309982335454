"""What commands print: one JSON document or a few words on stdout, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel
    from tqdm import tqdm


def emit(model: BaseModel, *, nulls: bool = False) -> None:
    """Print a model as the one JSON document, without the keys that have no value.

    A model that says what was moved over the network is told here.
    """
    if getattr(model, "bytes_moved", 0) is None and (moved := network_bytes()):
        model = model.model_copy(update={"bytes_moved": moved})
    typer.echo(model.model_dump_json(indent=2, exclude_none=not nulls))


def count_network() -> None:
    """Begin to count what a command moves over the network."""
    _COUNTED["before"] = _moved()


def network_bytes() -> int:
    """Return the bytes of datasets that the command moved over the network so far."""
    return _moved() - _COUNTED["before"]


def _moved() -> int:
    traffic = sys.modules.get("kd_offline.datasets.storage.traffic")  # nothing was moved without it
    return 0 if traffic is None else int(traffic.TRAFFIC.moved)


def say(text: str) -> None:
    """Print words for people on stderr."""
    typer.echo(text, err=True)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in aligned columns."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


_COUNTED = {"before": 0}


@contextmanager
def bar(total: int, unit: str, quiet: bool) -> Iterator[tqdm[Any]]:
    """Show progress on stderr where that is a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, file=sys.stderr, disable=hidden(quiet), leave=False) as shown:
        yield shown


def filling(shown: tqdm[Any]) -> Callable[[int, int], None]:
    """Return what moves a bar when it is called with how much is done and how much there is."""

    def progress(done: int, total: int) -> None:
        shown.total = total
        shown.update(done - shown.n)

    return progress


def hidden(quiet: bool) -> bool:
    """Tell whether progress is not to be shown."""
    return quiet or not sys.stderr.isatty()
