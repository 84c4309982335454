"""Writing a file or folder aside and renaming it, so that it is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_offline.errors import StorageError


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """Give a path beside ``target`` to write to, and put what is there in its place at the end.

    The path has the name of ``target``, in a hidden folder ``.NAME.converting-PID``. An error or
    Ctrl-C leaves ``target`` as it was and nothing beside it; a killed process leaves that folder.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    box = target.parent / f".{target.name}.converting-{os.getpid()}"
    try:
        _discard(box)
        box.mkdir(parents=True)
        yield box / target.name
        _replace(box / target.name, target)
    except StorageError:
        raise
    except OSError as error:
        if error.errno is None:  # the error of a library or of ours, not of the file system
            raise
        msg = f"cannot write {str(target)!r}: {error.strerror}; free space or choose another path"
        raise StorageError(msg) from error
    finally:
        _discard(box)


def _replace(draft: Path, target: Path) -> None:
    """Put ``draft`` where ``target`` is; a folder cannot be replaced in one step."""
    if not target.is_dir() or target.is_symlink():
        draft.replace(target)
        return
    target.replace(draft.with_name(draft.name + ".old"))
    draft.replace(target)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
