"""Files on disk: written aside and renamed into place, so that they are whole or not there.

A folder that came from somebody else may hold links. Nothing here writes through one: what is
written gets a random name that nobody can have put there, and the rename at the end replaces a
link, never the file that it leads to. Links above the file, in a path that the user gave, are
followed as everywhere; below a folder of ours they are refused, see :func:`make_subfolder`.

The chunks of a dataset are written by :mod:`kd_offline.datasets.storage.store`, which has one
writer at a time.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kd_offline.errors import Remedy, StorageError

MAX_DOCUMENT_BYTES = 64 << 20
"""Most bytes that are read of a JSON document in a folder that may be a stranger's."""

SAFE = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))
"""Flags of every file that is opened: no pipe in its place is waited for, and no link followed."""
_LONGEST = 200  # bytes of a file's name that the name aside repeats; systems allow 255
_ATTEMPTS = 100
_PIECE = 1 << 16
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EACCES}


def write_file(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Replace the file at ``path``; a reader sees the old one or the new one, whole.

    Text is written as UTF-8, with the line ends that it has. A link at ``path`` is replaced by
    the file; a folder is not. A ``durable`` file would survive a loss of power when this returns. A
    process that is killed leaves a hidden ``.NAME.RANDOM.partial``, which the next write of the
    same file removes.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written; the old file stays as it was.
    """
    _write(path, content, replace=True, durable=durable)


def write_output(path: Path, content: bytes | str, *, overwrite: bool = False) -> None:
    """Write a file that the user named; what is there already is kept unless ``overwrite``.

    Folders above it are made. :func:`check_output` says the same before long work begins; here
    a file that came up since is kept as well.

    Raises
    ------
    StorageError
        Something is there that may not be replaced, or the disk refuses.
    """
    check_output(path, overwrite=overwrite)
    make_folder(path.parent)
    try:
        _write(path, content, replace=overwrite)
    except FileExistsError as error:
        raise _taken(path) from error


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Raise a ``StorageError`` where :func:`write_output` would, as far as can be told before.

    With ``overwrite`` a file may be there, but no folder, link or device.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        _check_parent(path)
        return
    except OSError as error:
        raise refusal(path, error) from error
    if not stat.S_ISREG(mode):
        raise _no_file(path, mode)
    if not overwrite:
        raise _taken(path)
    _check_parent(path)


def append_file(path: Path, text: str, *, whole_lines: bool = False, durable: bool = False) -> None:
    """Append text to the file at ``path``, which is made where it is missing.

    With ``whole_lines`` a last line that has no end is dropped before. A link is refused. A file
    that has a second name elsewhere (a hard link) is replaced by a longer copy, so that the other
    name keeps what it has.

    Raises
    ------
    StorageError
        The disk is full, the folder cannot be written, or ``path`` is no file; nothing is
        appended.
    """
    data = text.encode("utf-8")
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | SAFE, 0o666)
        try:
            found = os.fstat(handle)
            _require_file(found.st_mode)
            if found.st_nlink == 1:
                size = _whole_lines(handle, found.st_size) if whole_lines else found.st_size
                _append(handle, data, size)
                if durable:
                    os.fsync(handle)
                return
        finally:
            os.close(handle)
    except OSError as error:
        raise refusal(path, error) from error
    write_file(path, read_file(path, found.st_size) + data)


def read_file(path: Path, limit: int) -> bytes:
    """Return the bytes of a file of a folder that may be a stranger's, at most ``limit``.

    Raises
    ------
    StorageError
        There is no file at ``path`` but a link, a folder, a pipe or nothing, it is longer, or it
        cannot be read.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | SAFE), "rb") as file:
            found = os.fstat(file.fileno())
            _require_file(found.st_mode)
            data = file.read(min(limit, found.st_size) + 1)
    except OSError as error:
        msg = f"cannot read {str(path)!r}: {reason(error)}; get a fresh copy or check the path"
        raise StorageError(msg) from error
    if len(data) > limit:
        msg = (
            f"{str(path)!r} has more than {limit:,} bytes, which no such file has: get a fresh copy"
        )
        raise StorageError(msg)
    return data


def make_folder(path: Path) -> None:
    """Make a folder and those above it; a ``StorageError`` where that is refused."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot make the folder {str(path)!r}: {reason(error)}; give another path"
        raise StorageError(msg) from error


def make_subfolder(folder: Path, name: str) -> Path:
    """Make a folder below one of ours and return it; a link in its place is a ``StorageError``."""
    path = folder / name
    try:
        path.mkdir()
    except FileExistsError:
        pass
    except OSError as error:
        raise refusal(path, error) from error
    require_folder(path)
    return path


def require_folder(path: Path) -> None:
    """Raise a ``StorageError`` unless a folder, and no link to one, is at ``path``."""
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise refusal(path, error) from error
    if not stat.S_ISDIR(mode):
        msg = f"{str(path)!r} is {kind_of(mode)} where a folder belongs: remove it yourself"
        raise StorageError(msg)


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a folder with all it holds; links are removed, never followed.

    Raises
    ------
    StorageError
        Something cannot be removed.
    """
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        msg = f"cannot remove {str(path)!r}: {reason(error)}; check its permissions"
        raise StorageError(msg) from error


@contextmanager
def aside(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a path beside ``target`` to write to, and put what is there in its place at the end.

    The path has the name of ``target``, in a new hidden folder ``.NAME.RANDOM.partial`` that is
    ours alone. An error or Ctrl-C leaves ``target`` as it was and nothing beside it; what a
    killed process leaves is removed by the next one that writes the same target. Folders above
    ``target`` are made. A file never replaces a folder, nor a folder a file.

    Raises
    ------
    StorageError
        The folder cannot be written, or there is something at ``target`` and ``overwrite`` is
        not given.
    """
    make_folder(target.parent)
    box: Path | None = None
    held = -1
    try:
        box, held = _box(target)
        yield box / target.name
        try:
            _settle(box / target.name, target, overwrite)
        except FileExistsError as error:
            raise _taken(target) from error
    except StorageError as error:
        if box is None or str(box) not in str(error):
            raise
        words = str(error).replace(str(box / target.name), str(target))
        raise StorageError(words) from error
    except OSError as error:
        if error.errno is None:  # the error of a library or of ours, not of the file system
            raise
        raise refusal(target, error) from error
    finally:
        if box is not None:
            shutil.rmtree(box, ignore_errors=True)
        if held >= 0:
            os.close(held)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a new folder that is gone afterwards, as far as it can be removed.

    Raises
    ------
    StorageError
        No folder for temporary files can be written.
    """
    try:
        place = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    except OSError as error:
        msg = f"cannot make a temporary folder: {reason(error)}; free space or set TMPDIR"
        raise StorageError(msg) from error
    with place as name:
        yield Path(name)


def refusal(path: Path, error: OSError) -> StorageError:
    """Return the error that says why ``path`` could not be written."""
    return StorageError(
        f"cannot write {str(path)!r}: {reason(error)}; free space or give another path"
    )


def kind_of(mode: int) -> str:
    """Return in words what a status' mode says that something is."""
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "a pipe or a device"


def cache_folder() -> Path | None:
    """Return the folder of what can be had again; None where it is switched off.

    ``KD_OFFLINE_CACHE`` is the folder or ``off``; without it, the system's place for caches.
    """
    named = os.environ.get("KD_OFFLINE_CACHE", "")
    if named.lower() == "off":
        return None
    if named:
        return Path(named).expanduser()
    import platformdirs  # here: only what keeps or reads a cache needs it

    return platformdirs.user_cache_path("kd-offline", appauthor=False)


def _write(path: Path, content: bytes | str, *, replace: bool, durable: bool = True) -> None:
    """Write aside and rename; FileExistsError where something is there that may not be replaced."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    beside: Path | None = None
    handle = -1
    try:
        _sweep(path)
        beside, handle = _aside_file(path)
        _all(handle, data)
        if durable:
            os.fsync(handle)
        if os.name == "nt":  # there an open file is not renamed
            os.close(handle)
            handle = -1
        if replace:
            beside.replace(path)
        else:
            _put_new(beside, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and not replace:
            raise
        raise refusal(path, error) from error
    finally:
        if beside is not None:
            _discard(beside)
        if handle >= 0:
            os.close(handle)


def _aside_file(path: Path) -> tuple[Path, int]:
    """Make a file of a new random name beside ``path``; it is locked as long as it is open."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE
    for _ in range(_ATTEMPTS):
        beside = _random_name(path)
        try:
            handle = os.open(beside, flags, 0o666)
        except FileExistsError:
            continue
        if _ours(beside, handle):
            return beside, handle
        os.close(handle)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))


def _box(target: Path) -> tuple[Path, int]:
    """Make a folder of a new random name beside ``target``; locked until its handle is closed."""
    _sweep(target)
    for _ in range(_ATTEMPTS):
        box = _random_name(target)
        try:
            box.mkdir(mode=0o700)
        except FileExistsError:
            continue
        if os.name == "nt":
            return box, -1
        handle = os.open(box, os.O_RDONLY | SAFE)
        if _ours(box, handle):
            return box, handle
        os.close(handle)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def _random_name(path: Path) -> Path:
    return path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}.partial")


def _prefix(path: Path) -> str:
    """Return how the names of everything that is written aside for ``path`` begin."""
    name = path.name.encode("utf-8", "surrogateescape")[:_LONGEST]
    return f".{name.decode('utf-8', 'ignore')}."


def _ours(path: Path, handle: int) -> bool:
    """Lock what was just made; False where a process that clears up was faster and removed it."""
    from filelock import lock_descriptor

    try:
        if not lock_descriptor(handle, blocking=False):
            return False
    except OSError:  # a file system without locks, where nothing is cleared up
        return True
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _sweep(path: Path) -> None:
    """Remove what killed processes left beside ``path``; a living one holds a lock on its own."""
    mine = re.compile(re.escape(_prefix(path)) + r"[0-9a-f]{16}\.partial")
    try:
        with os.scandir(path.parent) as entries:
            left = [Path(entry.path) for entry in entries if mine.fullmatch(entry.name)]
    except OSError:
        return  # writing will say what is wrong with the folder
    for stale in left:
        _remove_if_dead(stale)


def _remove_if_dead(stale: Path) -> None:
    from filelock import lock_descriptor

    try:
        handle = os.open(stale, os.O_RDONLY | SAFE)
    except OSError:
        return  # gone, or nothing that we have made
    try:
        if lock_descriptor(handle, blocking=False):
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                shutil.rmtree(stale, ignore_errors=True)
            else:
                _discard(stale)
    except OSError:
        return  # somebody is writing it
    finally:
        os.close(handle)


def _settle(draft: Path, target: Path, overwrite: bool) -> None:
    """Put ``draft`` where ``target`` is; a folder cannot be replaced in one step."""
    if overwrite and target.is_symlink():
        raise _no_file(target, stat.S_IFLNK)
    if not draft.is_dir():
        _sync_file(draft)
        if overwrite:
            draft.replace(target)
        else:
            _put_new(draft, target)
    elif overwrite and target.is_dir():
        old = draft.with_name(draft.name + ".old")
        target.replace(old)
        try:
            draft.replace(target)
        except BaseException:
            old.replace(target)
            raise
    else:
        _rename_new(draft, target)
    _sync_folder(target.parent)


def _rename_new(draft: Path, target: Path) -> None:
    """Rename a folder to a name that is free or an empty folder's."""
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def _put_new(beside: Path, path: Path) -> None:
    """Give a file its name, which must be free: FileExistsError."""
    try:
        os.link(beside, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    except NotImplementedError:
        pass
    else:
        return
    # Without hard links the name is reserved first; an empty file is seen for an instant.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE, 0o666))
    beside.replace(path)


def _all(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _whole_lines(handle: int, size: int) -> int:
    """Drop a last line without an end, and return the size that is left."""
    kept = size
    while kept:
        start = max(0, kept - _PIECE)
        os.lseek(handle, start, os.SEEK_SET)
        end = os.read(handle, kept - start).rfind(b"\n") + 1
        kept = start + end
        if end:
            break
    if kept < size:
        os.ftruncate(handle, kept)
    return kept


def _append(handle: int, data: bytes, size: int) -> None:
    try:
        _all(handle, data)
    except OSError:
        with suppress(OSError):
            os.ftruncate(handle, size)  # half a line would spoil the next one
        raise


def _require_file(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, not a file")


def _check_parent(path: Path) -> None:
    """Refuse what cannot be written beneath: a file in the way, a folder without the right to."""
    above = path.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise refusal(path, NotADirectoryError(errno.ENOTDIR, f"{str(above)!r} is not a folder"))
    if not os.access(above, os.W_OK | os.X_OK):
        number = errno.EROFS if _is_read_only(above) else errno.EACCES
        raise refusal(path, OSError(number, os.strerror(number)))


def _is_read_only(folder: Path) -> bool:
    """Tell whether a folder is on a file system that cannot be written."""
    if not hasattr(os, "statvfs"):
        return False
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _no_file(path: Path, mode: int) -> StorageError:
    return StorageError(
        f"{str(path)!r} is {kind_of(mode)}, which is not replaced: give another path"
    )


def _taken(path: Path) -> StorageError:
    remedies = Remedy("give another path"), Remedy("pass", overwrite=True)
    return StorageError(f"{str(path)!r} already exists", *remedies)


def reason(error: OSError) -> str:
    """Return in words what the system says of a file."""
    if error.errno == errno.ELOOP:
        return "it is a link, which is not followed"
    return error.strerror or str(error) or type(error).__name__


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDWR | SAFE)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Bring the names of a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _discard(beside: Path) -> None:
    with suppress(OSError):  # the error that matters was raised before this one
        beside.unlink(missing_ok=True)
