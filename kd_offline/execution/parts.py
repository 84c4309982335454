"""Folders for unfinished work beside an output: what is in them is combined or sent at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kd_offline.errors import Remedy, StorageError
from kd_offline.file_locks import only_writer, without_lock
from kd_offline.files import make_folder, remove_tree, require_folder


def parts_of(output: Path, kind: str) -> Path:
    """Return where the parts of an output lie: ``OUTPUT.kind``, such as ``run.seeds``."""
    folder = output.expanduser().absolute()
    return folder.with_name(f"{folder.name}.{kind}")


@contextmanager
def parts_folder(
    output: Path, kind: str, what: str, *, resume: bool, overwrite: bool
) -> Iterator[Path]:
    """Yield the folder ``OUTPUT.kind`` for the parts of an output; it is made, or continued.

    No other process may work in it meanwhile, and it is deleted at the end, see
    :func:`unfinished_work`.

    Parameters
    ----------
    output
        What the parts become.
    kind
        Of the parts: ``seeds`` of a distillation, ``parts`` by several experts.
    what
        Is made of them, for messages: ``recording``.
    resume, overwrite
        Keep the parts that are there, or delete them.

    Raises
    ------
    StorageError
        There are parts, and neither was asked for, or another process works on them.
    """
    folder = parts_of(output, kind)
    if is_begun(folder) and not resume and not overwrite:
        msg = f"there are {kind} of an unfinished {what} at {str(folder)!r}"
        go_on = Remedy("continue it with", resume=True)
        raise StorageError(msg, go_on, Remedy("delete them with", overwrite=True))
    with unfinished_work(folder, f"working on {kind} of a {what}"):
        if overwrite:
            _clear(folder)
        yield folder


@contextmanager
def unfinished_work(folder: Path, doing: str) -> Iterator[None]:
    """Lock a folder, made if missing, against other processes while the body runs; delete it then.

    What an error, Ctrl-C or a kill leaves in it stays there.

    Raises
    ------
    StorageError
        Another process is ``doing`` something there, or it is a link, whose target is not ours to
        clear.
    """
    make_folder(folder)
    require_folder(folder)
    with only_writer(folder, doing):
        try:
            yield
            _clear(folder)
        finally:
            with suppress(OSError):  # an empty one: all is done, or the command was refused
                folder.rmdir()


def refuse_parts(output: Path, kind: str, what: str) -> None:
    """Raise a ``StorageError`` if an output that one process is to continue was begun in parts.

    ``kind`` and ``what`` are those of :func:`parts_folder`.
    """
    folder = parts_of(output, kind)
    if is_begun(folder):
        msg = f"there are {kind} of an unfinished {what} at {str(folder)!r}"
        raise StorageError(msg, Remedy("continue it with", on="processes:4"), "delete them")


def is_begun(folder: Path) -> bool:
    """Return whether there is unfinished work; an empty folder is left of a killed command."""
    return folder.is_dir() and any(True for _ in without_lock(folder))


def _clear(folder: Path) -> None:
    for path in without_lock(folder):
        remove_tree(path)
