"""Prepare the folder of a new dataset: it is free, or continued or cleared on request."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from kd_offline.datasets.format import layout
from kd_offline.datasets.storage.store import lock_folder
from kd_offline.errors import Remedy, StorageError, UsageError
from kd_offline.file_locks import without_lock
from kd_offline.files import make_folder, remove_tree


def check_name(name: str | None) -> None:
    """Raise a ``UsageError`` unless the name is None or one line of printable text."""
    if name is not None and not (name.strip() and name.isprintable()):
        msg = f"name {name!r} must be one line of printable text"
        raise UsageError(msg)


def claim_folder(root: Path, *, resume: bool, overwrite: bool) -> IO[bytes]:
    """Prepare ``root`` and take its writer lock; closing the returned file releases it.

    Raises
    ------
    StorageError
        As :func:`prepare_folder`, or another process is writing here.
    """
    prepare_folder(root, resume=resume, overwrite=overwrite)
    lock = lock_folder(root)
    try:
        # Another writer may have finished since the first check.
        refuse_existing(root, resume=resume)
    except StorageError:
        lock.close()
        raise
    return lock


def prepare_folder(root: Path, *, resume: bool, overwrite: bool) -> None:
    """Make ``root`` an empty folder, or keep a recording that is to be continued.

    Raises
    ------
    StorageError
        Something is there that is neither to be continued nor to be replaced.
    """
    refuse_occupied(root, resume=resume, overwrite=overwrite)
    if overwrite and (_has_manifest(root) or _has_journal(root)):
        _delete_dataset(root)
        refuse_occupied(root, resume=resume, overwrite=False)
    make_folder(root)


def refuse_occupied(root: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise a ``StorageError`` where :func:`prepare_folder` would; nothing is changed."""
    if root.exists() and not root.is_dir():
        msg = f"{str(root)!r} is a file: choose another path for the dataset"
        raise StorageError(msg)
    if not overwrite:
        refuse_existing(root, resume=resume)
    if not root.exists() or _has_manifest(root) or _has_journal(root):
        return
    own_files = {layout.LOCK, layout.SCRATCH}
    if any(path.name not in own_files for path in without_lock(root)):
        msg = f"{str(root)!r} is not empty and holds no dataset: choose another path"
        raise StorageError(msg)


def refuse_existing(root: Path, *, resume: bool) -> None:
    """Raise a ``StorageError`` if a dataset, or a recording not to be continued, is at ``root``."""
    if _has_manifest(root):
        msg = f"there is a finished dataset at {str(root)!r}"
        other = Remedy("choose another path")
        raise StorageError(msg, other, Remedy("give", overwrite=True))
    if _has_journal(root) and not resume:
        msg = f"there is an unfinished recording at {str(root)!r}"
        go_on = Remedy("continue it with", resume=True)
        raise StorageError(msg, go_on, Remedy("delete it with", overwrite=True))


def _has_manifest(root: Path) -> bool:
    return (root / layout.MANIFEST).exists()


def _has_journal(root: Path) -> bool:
    return (root / layout.JOURNAL).exists()


def _delete_dataset(root: Path) -> None:
    """Delete a dataset or an unfinished recording; half deleted, it is never a dataset.

    The manifest is first renamed to a journal that cannot be continued, and is deleted last. So
    a killed deletion can be repeated.
    """
    with lock_folder(root):
        if _has_manifest(root):
            (root / layout.MANIFEST).replace(root / layout.JOURNAL)
        for group in layout.GROUPS:
            remove_tree(root / group)
        for name in (layout.ZARR_JSON, layout.SCRATCH, layout.BLOCKS, layout.JOURNAL):
            remove_tree(root / name)
