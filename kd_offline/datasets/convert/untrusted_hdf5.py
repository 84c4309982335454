"""HDF5 from strangers: what is looked at before a single value is read.

The HDF5 library is a large parser in C. Nothing here makes it safe; these checks only refuse what
no dataset needs: links out of the file, external and virtual storage, objects, references and
variable lengths, plug-in filters, and shapes that the stored bytes cannot fill.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.interchange import foreign, library
from kd_offline.types import Array

_GZIP, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_FILTERS = {_GZIP, _SHUFFLE, _FLETCHER32, _LZF}
# No deflate stream grows by more than 1032 to 1.
_LARGEST_GROWTH = 1100
_SMALL = 1 << 20
_LARGEST_CHUNK = 256 << 20
_LARGEST_TEXT = 256 << 20
_CACHE = 8 << 20  # of decoded chunks, for every dataset that is open

Group = Any
Dataset = Any


def is_hdf5(path: Path) -> bool:
    """Tell whether ``path`` is a file that begins as HDF5 files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


@contextmanager
def opened(path: Path) -> Iterator[Group]:
    """Open an HDF5 file for reading, and turn the library's failures into a sentence."""
    h5py = library("h5py", "HDF5")
    if not is_hdf5(path):
        raise foreign(path, "it is no HDF5 file" if path.exists() else "there is no such file")
    try:
        with h5py.File(path, "r", rdcc_nbytes=_CACHE) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        if type(error) is OSError or not isinstance(error, OSError):
            words = " ".join(str(error).split())[:200] or type(error).__name__
            raise foreign(path, f"the HDF5 library cannot read it ({words})") from error
        raise


def names(group: Group) -> list[str]:
    """Return the names of what a group links to."""
    return list(group)


def member(group: Group, name: str) -> Any:
    """Return what ``name`` is in a group, or None; only what lies in this file.

    Raises
    ------
    ForeignError
        It is a soft or an external link.
    """
    h5py = library("h5py", "HDF5")
    here = group
    for part in name.split("/"):
        link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise foreign(_path(group), f"{part!r} is a soft or external link")
        here = here[part]
    return here


def subgroup(group: Group, name: str) -> Group:
    """Return the group called ``name``; a ``ForeignError`` where there is none."""
    h5py = library("h5py", "HDF5")
    found = member(group, name)
    if not isinstance(found, h5py.Group):
        raise foreign(_path(group), f"it has no group {name!r} in {group.name!r}")
    return found


def dataset(group: Group, name: str, *, kinds: str = "biuf") -> Dataset:
    """Return the dataset called ``name`` after checking all but its values.

    ``kinds`` are NumPy's letters of the dtypes that are allowed.

    Raises
    ------
    ForeignError
        There is none, or it is not one that is read.
    """
    h5py = library("h5py", "HDF5")
    found = member(group, name)
    if not isinstance(found, h5py.Dataset):
        raise foreign(_path(group), f"it has no dataset {name!r} in {group.name!r}")
    if problem := _problem(found, kinds):
        raise foreign(_path(group), f"dataset {found.name!r} {problem}")
    return found


def text(group: Group, name: str) -> bytes | None:
    """Return bytes stored as uint8 [n], or None where there are none."""
    if member(group, name) is None:
        return None
    found = dataset(group, name, kinds="u")
    if found.ndim != 1 or found.dtype != np.uint8 or found.size > _LARGEST_TEXT:
        raise foreign(_path(group), f"dataset {found.name!r} is no text")
    return bytes(np.asarray(found[()]).data)


def whole(found: Dataset) -> Array:
    """Return all values of a checked dataset."""
    return np.asarray(found[()])


def _problem(found: Dataset, kinds: str) -> str | None:
    layouts = library("h5py", "HDF5").h5d
    dtype, plist = found.dtype, found.id.get_create_plist()
    if dtype.hasobject or dtype.kind not in kinds or dtype.fields or dtype.subdtype:
        return f"has dtype {dtype}, not numbers"
    if plist.get_layout() == layouts.VIRTUAL or plist.get_external_count():
        return "keeps its values in other files"
    if plist.get_layout() == layouts.CHUNKED and (what := _odd_chunks(plist, dtype.itemsize)):
        return what
    size = math.prod(found.shape) * dtype.itemsize
    if size <= _SMALL:
        return None
    stored = found.id.get_storage_size()
    if size > stored * _LARGEST_GROWTH:
        return f"states a shape of {list(found.shape)}, but only {stored} bytes are stored"
    return None


def _odd_chunks(plist: Any, itemsize: int) -> str | None:
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
