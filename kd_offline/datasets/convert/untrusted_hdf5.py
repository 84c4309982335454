"""Checks of HDF5 files from strangers, before any value is read.

The HDF5 library is a large parser in C, and nothing here makes it safe. These checks refuse what no
dataset needs: links out of the file, external and virtual storage, objects, references, variable
lengths, plug-in filters, and shapes that the stored bytes cannot fill.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.interchange import foreign_error, import_library
from kd_offline.types import Array

_GZIP, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_FILTERS = {_GZIP, _SHUFFLE, _FLETCHER32, _LZF}
# Deflate expands by at most 1032 to 1.
_LARGEST_GROWTH = 1100
_UNCHECKED_BYTES = 1 << 20
_LARGEST_CHUNK = 256 << 20
_LARGEST_TEXT = 256 << 20
_CACHE = 8 << 20  # bytes of decoded chunks for every open dataset

Group = Any
Dataset = Any


def is_hdf5(path: Path) -> bool:
    """Tell whether ``path`` is a file with the signature of HDF5."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_hdf5(path: Path) -> Iterator[Group]:
    """Open an HDF5 file for reading; errors of the library become a ``ForeignError``."""
    h5py = import_library("h5py", "HDF5")
    if not is_hdf5(path):
        raise foreign_error(
            path, "it is no HDF5 file" if path.exists() else "there is no such file"
        )
    try:
        with h5py.File(path, "r", rdcc_nbytes=_CACHE) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        if type(error) is OSError or not isinstance(error, OSError):
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise foreign_error(path, f"the HDF5 library cannot read it ({reason})") from error
        raise


def member_names(group: Group) -> list[str]:
    """Return the names of a group's links."""
    return list(group)


def member(group: Group, name: str) -> Any:
    """Return the object called ``name`` in a group of this file, or None.

    Raises
    ------
    ForeignError
        It is a soft or an external link.
    """
    h5py = import_library("h5py", "HDF5")
    current = group
    for part in name.split("/"):
        link = current.get(part, getlink=True) if isinstance(current, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise foreign_error(_path(group), f"{part!r} is a soft or external link")
        current = current[part]
    return current


def subgroup(group: Group, name: str) -> Group:
    """Return the group called ``name``; raises ``ForeignError`` if there is none."""
    h5py = import_library("h5py", "HDF5")
    candidate = member(group, name)
    if not isinstance(candidate, h5py.Group):
        raise foreign_error(_path(group), f"it has no group {name!r} in {group.name!r}")
    return candidate


def checked_dataset(group: Group, name: str, *, kinds: str = "biuf") -> Dataset:
    """Return the dataset called ``name``, after checking everything but its values.

    ``kinds``: NumPy's letters of the allowed dtypes.

    Raises
    ------
    ForeignError
        There is none, or it is not one that is read.
    """
    h5py = import_library("h5py", "HDF5")
    candidate = member(group, name)
    if not isinstance(candidate, h5py.Dataset):
        raise foreign_error(_path(group), f"it has no dataset {name!r} in {group.name!r}")
    if problem := _problem(candidate, kinds):
        raise foreign_error(_path(group), f"dataset {candidate.name!r} {problem}")
    return candidate


def read_bytes(group: Group, name: str) -> bytes | None:
    """Return bytes stored as uint8 [n], or None if there are none."""
    if member(group, name) is None:
        return None
    array = checked_dataset(group, name, kinds="u")
    if array.ndim != 1 or array.dtype != np.uint8 or array.size > _LARGEST_TEXT:
        raise foreign_error(_path(group), f"dataset {array.name!r} is no text")
    return bytes(np.asarray(array[()]).data)


def read_all(array: Dataset) -> Array:
    """Return all values of a checked dataset."""
    return np.asarray(array[()])


def _problem(array: Dataset, kinds: str) -> str | None:
    layouts = import_library("h5py", "HDF5").h5d
    dtype, plist = array.dtype, array.id.get_create_plist()
    if dtype.hasobject or dtype.kind not in kinds or dtype.fields or dtype.subdtype:
        return f"has dtype {dtype}, not numbers"
    if plist.get_layout() == layouts.VIRTUAL or plist.get_external_count():
        return "keeps its values in other files"
    if plist.get_layout() == layouts.CHUNKED and (what := _chunk_problem(plist, dtype.itemsize)):
        return what
    size = math.prod(array.shape) * dtype.itemsize
    if size <= _UNCHECKED_BYTES:
        return None
    stored = array.id.get_storage_size()
    if size > stored * _LARGEST_GROWTH:
        return f"states a shape of {list(array.shape)}, but only {stored} bytes are stored"
    return None


def _chunk_problem(plist: Any, itemsize: int) -> str | None:
    filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
    if set(filters) - _FILTERS:
        return "is compressed by a filter other than gzip, lzf, shuffle and fletcher32"
    if len(filters) > len(set(filters)):
        return "is compressed more than once"
    if math.prod(plist.get_chunk()) * itemsize > _LARGEST_CHUNK:
        return f"has chunks of {list(plist.get_chunk())}, too large to read"
    return None


def _path(group: Group) -> Path:
    return Path(group.file.filename)
