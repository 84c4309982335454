"""``verify``: every file, every chunk, every digest, and the rules that values must keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from kd_offline.datasets.format import layout, resource_limits
from kd_offline.datasets.format.manifest import read_manifest, text_of
from kd_offline.datasets.reading.array_reader import StoredArray, open_arrays
from kd_offline.datasets.storage.addresses import is_remote
from kd_offline.datasets.storage.safe_open import NotPlainError
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.store import Files, Folder, measured
from kd_offline.datasets.validation.contents import check_contents
from kd_offline.errors import CorruptDatasetError, DatasetError, StorageError
from kd_offline.execution.threads import Threads
from kd_offline.schemas.dataset import DatasetManifest, FileRecord, Problem, VerifyReport

_THREADS = 2
_GROUP = 16  # files that a thread takes at once
_MOST_STRAYS = 100


def verify(
    path: str | Path, *, quick: bool = False, manifest: DatasetManifest | None = None
) -> VerifyReport:
    """Check a dataset and name everything that is wrong with it.

    Parameters
    ----------
    path
        Folder of the dataset.
    quick
        Check files, sizes and sha256 only; otherwise every value is decoded as well, content
        digests are recomputed and the semantic rules of docs/format.md are applied.
    manifest
        The dataset's, where it was read before: what is there is then held against that one.

    Raises
    ------
    NotADatasetError, UnfinishedError, FormatVersionError
        There is no finished dataset of a known format at ``path``.
    """
    folder = open_files(path, cached=False)  # what is there now, not what was there once
    try:
        manifest = read_manifest(folder) if manifest is None else manifest
    except CorruptDatasetError as error:
        return damaged(error)
    files = {file.path: file for file in manifest.files}
    try:
        arrays = open_arrays(folder, manifest.arrays, files)
    except CorruptDatasetError as error:
        problem = Problem(where=layout.ZARR_JSON, what=str(error))
        return _report([problem, *_check_files(folder, files, {}, hash_chunks=True)])
    problems = list(_check_files(folder, files, arrays, hash_chunks=quick))
    if manifest.format_version[1] <= layout.FORMAT_VERSION[1]:  # a later one may have more arrays
        problems += _superfluous(files, arrays)
    if bomb := _expansion(folder, arrays):
        problems.append(bomb)
    elif not quick:
        problems += check_contents(manifest, arrays)
    return _report([*problems, *_replaced(folder, manifest)])


def _replaced(folder: Files, manifest: DatasetManifest) -> Iterator[Problem]:
    """Yield that a server shows another manifest now than the one that was checked."""
    if is_remote(folder.where):
        try:
            text_of(folder, manifest)
        except (DatasetError, StorageError) as error:
            yield Problem(where=layout.MANIFEST, what=str(error))


def damaged(error: CorruptDatasetError) -> VerifyReport:
    """Return the report of a dataset whose manifest cannot be used."""
    return _report([Problem(where=layout.MANIFEST, what=str(error))])


def _report(problems: list[Problem]) -> VerifyReport:
    return VerifyReport(ok=not problems, problems=tuple(problems))


def _check_files(
    folder: Files,
    files: Mapping[str, FileRecord],
    arrays: Mapping[str, StoredArray],
    *,
    hash_chunks: bool,
) -> Iterator[Problem]:
    """Compare the folder with the manifest's file table, both ways.

    Without ``hash_chunks`` the chunk files are left to the decoding, which reads them anyway.
    """
    places = _chunk_places(arrays)
    chosen = [file for file in files.values() if hash_chunks or file.path not in places]
    with Threads(max(_THREADS, folder.readers)) as threads:
        groups = [chosen[start : start + _GROUP] for start in range(0, len(chosen), _GROUP)]
        found = threads.map(lambda group: [_file_problem(folder, f) for f in group], groups)
        yield from _strays(folder, files)
        for file, what in zip(chosen, chain.from_iterable(found), strict=True):
            if what:
                yield Problem(where=places.get(file.path, file.path), what=what)


def _strays(folder: Files, files: Mapping[str, FileRecord]) -> Iterator[Problem]:
    strays = sorted(set(folder.files() or ()) - files.keys() - layout.NO_CONTENT)
    for path in strays[:_MOST_STRAYS]:
        what = "this file is not in the manifest's file table"
        if path.rpartition("/")[2] in layout.ZARR_V2:
            what = (
                "this is metadata of Zarr version 2, which other programs may read and which can "
                "make them run code"
            )
        # Names of files may hold anything, even what cannot be printed.
        yield Problem(where=path if path.isprintable() else ascii(path), what=what)
    if len(strays) > _MOST_STRAYS:
        what = f"{len(strays) - _MOST_STRAYS} more files are not in the manifest's file table"
        yield Problem(where=folder.where, what=what)


def _superfluous(
    files: Mapping[str, FileRecord], arrays: Mapping[str, StoredArray]
) -> Iterator[Problem]:
    metadata = {f"{node}{layout.ZARR_JSON}" for node in _nodes(arrays)}
    for path in sorted(files.keys() - _chunk_places(arrays).keys() - metadata):
        yield Problem(where=path, what="this file belongs to no array of the manifest")


def _nodes(arrays: Iterable[str]) -> Iterator[str]:
    """Yield the paths of the root, the groups and the arrays, as prefixes of files."""
    yield ""
    for name in arrays:
        yield f"{name.partition('/')[0]}/"
        yield f"{name}/"


def _expansion(folder: Files, arrays: Mapping[str, StoredArray]) -> Problem | None:
    """Refuse to decode far more than is stored, by the sizes on the disk: the manifest may lie."""
    if not isinstance(folder, Folder):  # elsewhere a file of another size is never decoded
        return None
    stored = sum(_size(folder, path) for path in _chunk_places(arrays))
    decoded = sum(
        array.chunk_count * array.chunk_rows * array.row_bytes for array in arrays.values()
    )
    what = resource_limits.expansion_problem(decoded, stored)
    return None if what is None else Problem(where=folder.where, what=what)


def _size(folder: Folder, path: str) -> int:
    try:
        return folder.size(path) or 0
    except (CorruptDatasetError, StorageError):
        return 0


def _chunk_places(arrays: Mapping[str, StoredArray]) -> dict[str, str]:
    """Return array and rows, in words, of every chunk file that must exist."""
    return {
        array.chunk_path(index): f"{name} {array.rows_of(index)}"
        for name, array in arrays.items()
        for index in range(array.chunk_count)
    }


def _file_problem(folder: Files, file: FileRecord) -> str | None:
    try:
        size, digest = measured(folder, file)
    except FileNotFoundError:
        return f"{file.path} is missing"
    except NotPlainError as error:
        return error.what
    except StorageError as error:
        return str(error)
    if size != file.size:
        return f"{file.path} has {size} bytes instead of {file.size}"
    return None if digest == file.sha256 else f"{file.path} does not match its sha256"
