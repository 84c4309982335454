"""The folder that a dataset is about to be written to: free, continued, or cleared on request."""

from __future__ import annotations

import shutil
from pathlib import Path

from kd_offline.datasets import layout
from kd_offline.datasets.store import lock
from kd_offline.errors import StorageError


def make_way(root: Path, *, resume: bool, overwrite: bool) -> None:
    """Make ``root`` an empty folder or one with a recording to continue, or say why not.

    Raises
    ------
    StorageError
        Something is there that is neither to be continued nor to be replaced.
    """
    if root.exists() and not root.is_dir():
        msg = f"{str(root)!r} is a file: choose another path for the dataset"
        raise StorageError(msg)
    finished, begun = (root / layout.MANIFEST).exists(), (root / layout.JOURNAL).exists()
    ours = {layout.LOCK, layout.SCRATCH}
    if (finished or begun) and overwrite:
        _delete(root)
    elif finished:
        msg = (
            f"there is a finished dataset at {str(root)!r}: choose another path or give --overwrite"
        )
        raise StorageError(msg)
    elif begun and not resume:
        msg = (
            f"there is an unfinished recording at {str(root)!r}: continue it with --resume or "
            "delete it with --overwrite"
        )
        raise StorageError(msg)
    elif not begun and root.exists() and any(p.name not in ours for p in root.iterdir()):
        msg = f"{str(root)!r} is not empty and holds no dataset: choose another path"
        raise StorageError(msg)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot make the folder {str(root)!r} ({error.strerror}): choose another path"
        raise StorageError(msg) from error


def _delete(root: Path) -> None:
    with lock(root):
        # Without the manifest a half-deleted dataset is never taken for a whole one.
        (root / layout.MANIFEST).unlink(missing_ok=True)
        for group in layout.GROUPS:
            shutil.rmtree(root / group, ignore_errors=True)
        for name in (layout.ZARR_JSON, layout.SCRATCH, layout.JOURNAL):
            (root / name).unlink(missing_ok=True)
