"""Parts of an output that workers make in parallel, and that are combined at the end."""

from __future__ import annotations

from pathlib import Path

from kd_offline.errors import Remedy, StorageError
from kd_offline.files import make_folder, remove_tree


def parts_of(output: Path, kind: str) -> Path:
    """Return where the parts of an output lie: ``OUTPUT.kind``, such as ``run.seeds``."""
    folder = output.expanduser().absolute()
    return folder.with_name(f"{folder.name}.{kind}")


def parts_folder(output: Path, kind: str, what: str, *, resume: bool, overwrite: bool) -> Path:
    """Return the folder ``OUTPUT.kind`` for the parts of an output; it is made, or continued.

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
        There are parts, and neither was asked for.
    """
    folder = parts_of(output, kind)
    if overwrite:
        remove_tree(folder)
    elif _begun(folder) and not resume:
        msg = f"there are {kind} of an unfinished {what} at {str(folder)!r}"
        go_on = Remedy("continue it with", resume=True)
        raise StorageError(msg, go_on, Remedy("delete them with", overwrite=True))
    make_folder(folder)
    return folder


def refuse_parts(output: Path, kind: str, what: str) -> None:
    """Raise a ``StorageError`` if an output that one process is to continue was begun in parts.

    ``kind`` and ``what`` are those of :func:`parts_folder`.
    """
    folder = parts_of(output, kind)
    if _begun(folder):
        msg = f"there are {kind} of an unfinished {what} at {str(folder)!r}"
        raise StorageError(msg, Remedy("continue it with", on="processes:4"), "delete them")


def _begun(folder: Path) -> bool:
    """Tell whether there are parts; an empty folder is left of a command that was refused."""
    return folder.exists() and any(folder.iterdir())
