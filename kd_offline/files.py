"""Atomic reading and writing of files in folders that may hold links of strangers.

A file is written under a random name beside its destination and then renamed, so that a reader
sees the old file or the whole new one. The rename replaces a link, and never writes to the file
that the link points to. Links in a path that the user gave are followed; links below a folder of
ours are refused, see :func:`make_subfolder`.

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

from kd_offline.errors import Remedy, StorageError, UsageError

MAX_DOCUMENT_BYTES = 64 << 20
"""Largest size of a JSON document that is read from an untrusted folder."""

SAFE = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))
"""Flags of every file that is opened: do not wait for a pipe, and do not follow a link."""
_LONGEST = 200  # bytes of a file's name that are in its temporary name; systems allow 255
_ATTEMPTS = 100
_SCHEMES = frozenset({"s3:", "gs:", "az:", "hf:", "http:", "https:"})
_PIECE = 1 << 16
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EACCES}


def write_file(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Replace the file at ``path`` atomically: a reader sees the old or the new one, whole.

    Text is written as UTF-8 with its line ends unchanged. A link at ``path`` is replaced by the
    file; a folder is not. ``durable`` flushes to disk, so that the file survives a loss of power. A
    process that is killed leaves a hidden ``.NAME.RANDOM.partial``, which the next write of the
    same file removes.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written; the old file is unchanged.
    """
    _write(path, content, replace=True, durable=durable)


def write_output(path: Path, content: bytes | str, *, overwrite: bool = False) -> None:
    """Write a file that the user named; an existing one is kept unless ``overwrite``.

    Missing folders above it are created. :func:`check_output` raises the same errors before long
    work starts; a file that appeared since then is kept as well.

    Raises
    ------
    StorageError
        Something is there that may not be replaced, or it cannot be written.
    """
    check_output(path, overwrite=overwrite)
    make_folder(path.parent)
    try:
        _write(path, content, replace=overwrite)
    except FileExistsError as error:
        raise _taken(path) from error


def create_file(path: Path, content: bytes | str) -> bool:
    """Write a new file at ``path``, whole and safe against a loss of power; False: one is there.

    Of several processes that create one file at once, on any machines, one alone gets True.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    try:
        _write(path, content, replace=False)
    except FileExistsError:
        return False
    return True


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Raise the ``StorageError`` that :func:`write_output` would raise, as far as known in advance.

    ``overwrite`` allows a file at ``path``, but no folder, link or device.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        _check_parent(path)
        return
    except OSError as error:
        raise refusal(path, error) from error
    if not stat.S_ISREG(mode):
        raise _not_a_file(path, mode)
    if not overwrite:
        raise _taken(path)
    _check_parent(path)


def append_file(path: Path, text: str, *, whole_lines: bool = False, durable: bool = False) -> None:
    """Append text to the file at ``path``, which is created if missing.

    ``whole_lines`` removes an incomplete last line before. A link is refused. A file with a second
    hard link is replaced by a longer copy, so that the other name keeps its content.

    Raises
    ------
    StorageError
        The disk is full, the folder cannot be written, or ``path`` is no file; nothing is
        appended.
    """
    data = text.encode("utf-8")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | SAFE, 0o666)
        try:
            status = os.fstat(descriptor)
            _require_file(status.st_mode)
            if status.st_nlink == 1:
                size = (
                    _truncate_to_whole_lines(descriptor, status.st_size)
                    if whole_lines
                    else status.st_size
                )
                _append(descriptor, data, size)
                if durable:
                    os.fsync(descriptor)
                return
        finally:
            os.close(descriptor)
    except OSError as error:
        raise refusal(path, error) from error
    write_file(path, read_file(path, status.st_size) + data)


def read_file(path: Path, limit: int) -> bytes:
    """Return the bytes of a plain file, at most ``limit``; for folders that are not trusted.

    Raises
    ------
    StorageError
        At ``path`` is no plain file (but a link, a folder, a pipe or nothing), it is longer than
        ``limit``, or it cannot be read.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | SAFE), "rb") as file:
            status = os.fstat(file.fileno())
            _require_file(status.st_mode)
            data = file.read(min(limit, status.st_size) + 1)
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
    """Create a folder and those above it; raises ``StorageError`` where that fails.

    Raises also as :func:`refuse_address`.
    """
    refuse_address(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot make the folder {str(path)!r}: {reason(error)}; give another path"
        raise StorageError(msg) from error


def refuse_address(path: Path) -> None:
    """Raise a ``UsageError`` for the path that was made of an address, such as ``s3:/bucket``.

    It would be the name of a folder here, beside what the user wanted.
    """
    if _SCHEMES.intersection(path.parts):
        msg = (
            f"{str(path)!r} is no folder but an address, to which only datasets are written, by "
            "record, virtual merges and push: give a folder"
        )
        raise UsageError(msg)


def make_subfolder(folder: Path, name: str) -> Path:
    """Create a folder below one of ours and return it; raises ``StorageError`` for a link there."""
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
    """Raise a ``StorageError`` unless there is a folder at ``path`` that is no link."""
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise refusal(path, error) from error
    if not stat.S_ISDIR(mode):
        msg = f"{str(path)!r} is {kind_of(mode)} where a folder belongs: remove it yourself"
        raise StorageError(msg)


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a folder with its content; links are not followed.

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
    """Yield a temporary path; at the end, move what was written there to ``target``.

    The path has the name of ``target`` and is in a new hidden folder ``.NAME.RANDOM.partial``. An
    error or Ctrl-C leaves ``target`` unchanged and nothing beside it. What a killed process leaves
    is removed by the next process that writes the same target. Missing folders above ``target``
    are created. A file never replaces a folder, nor a folder a file.

    Raises
    ------
    StorageError
        The folder cannot be written, or ``target`` exists and ``overwrite`` is False.
    """
    make_folder(target.parent)
    workspace: Path | None = None
    lock = -1
    try:
        workspace, lock = _create_workspace(target)
        yield workspace / target.name
        try:
            _move_into_place(workspace / target.name, target, overwrite)
        except FileExistsError as error:
            raise _taken(target) from error
    except StorageError as error:
        if workspace is None or str(workspace) not in str(error):
            raise
        message = str(error).replace(str(workspace / target.name), str(target))
        raise StorageError(message) from error
    except OSError as error:
        if error.errno is None:  # the error of a library or of ours, not of the file system
            raise
        raise refusal(target, error) from error
    finally:
        if workspace is not None:
            shutil.rmtree(workspace, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder that is removed at the end, as far as possible.

    Raises
    ------
    StorageError
        No folder for temporary files can be written.
    """
    try:
        directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    except OSError as error:
        msg = f"cannot make a temporary folder: {reason(error)}; free space or set TMPDIR"
        raise StorageError(msg) from error
    with directory as name:
        yield Path(name)


def refusal(path: Path, error: OSError) -> StorageError:
    """Return the error that states why ``path`` cannot be written."""
    return StorageError(
        f"cannot write {str(path)!r}: {reason(error)}; free space or give another path"
    )


def kind_of(mode: int) -> str:
    """Return the kind of a file by its mode, in words."""
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "a pipe or a device"


def cache_folder() -> Path | None:
    """Return the folder of caches; None where caching is off.

    ``KD_OFFLINE_CACHE`` is the folder or ``off``; without it, the system's folder for caches.
    """
    setting = os.environ.get("KD_OFFLINE_CACHE", "")
    if setting.lower() == "off":
        return None
    if setting:
        return Path(setting).expanduser()
    import platformdirs  # here: only what keeps or reads a cache needs it

    return platformdirs.user_cache_path("kd-offline", appauthor=False)


def _write(path: Path, content: bytes | str, *, replace: bool, durable: bool = True) -> None:
    """Write a temporary file and rename it; FileExistsError where ``replace`` is False."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary: Path | None = None
    descriptor = -1
    try:
        _remove_partials(path)
        temporary, descriptor = _create_temporary_file(path)
        _write_all(descriptor, data)
        if durable:
            os.fsync(descriptor)
        if os.name == "nt":  # there an open file is not renamed
            os.close(descriptor)
            descriptor = -1
        if replace:
            temporary.replace(path)
        else:
            _rename_new_file(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and not replace:
            raise
        raise refusal(path, error) from error
    finally:
        if temporary is not None:
            _discard(temporary)
        if descriptor >= 0:
            os.close(descriptor)


def _create_temporary_file(path: Path) -> tuple[Path, int]:
    """Create and lock a file of a new random name beside ``path``; return it and its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE
    for _ in range(_ATTEMPTS):
        temporary = _random_name(path)
        try:
            descriptor = os.open(temporary, flags, 0o666)
        except FileExistsError:
            continue
        if _lock_own(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))


def _create_workspace(target: Path) -> tuple[Path, int]:
    """Create and lock a folder of a random name beside ``target``; return it and its descriptor."""
    _remove_partials(target)
    for _ in range(_ATTEMPTS):
        workspace = _random_name(target)
        try:
            workspace.mkdir(mode=0o700)
        except FileExistsError:
            continue
        if os.name == "nt":
            return workspace, -1
        descriptor = os.open(workspace, os.O_RDONLY | SAFE)
        if _lock_own(workspace, descriptor):
            return workspace, descriptor
        os.close(descriptor)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def _random_name(path: Path) -> Path:
    return path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}.partial")


def _prefix(path: Path) -> str:
    """Return the prefix of the names of all temporary files for ``path``."""
    name = path.name.encode("utf-8", "surrogateescape")[:_LONGEST]
    return f".{name.decode('utf-8', 'ignore')}."


def _lock_own(path: Path, descriptor: int) -> bool:
    """Lock a file that was just created; False if another process's cleanup has removed it."""
    from filelock import lock_descriptor

    try:
        if not lock_descriptor(descriptor, blocking=False):
            return False
    except OSError:  # a file system without locks, where nothing is cleared up
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _remove_partials(path: Path) -> None:
    """Remove what killed processes left beside ``path``; running processes hold locks."""
    pattern = re.compile(re.escape(_prefix(path)) + r"[0-9a-f]{16}\.partial")
    try:
        with os.scandir(path.parent) as entries:
            leftovers = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    except OSError:
        return  # writing will say what is wrong with the folder
    for leftover in leftovers:
        _remove_if_dead(leftover)


def _remove_if_dead(leftover: Path) -> None:
    from filelock import lock_descriptor

    try:
        descriptor = os.open(leftover, os.O_RDONLY | SAFE)
    except OSError:
        return  # gone, or nothing that we have made
    try:
        if lock_descriptor(descriptor, blocking=False):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                _discard(leftover)
    except OSError:
        return  # somebody is writing it
    finally:
        os.close(descriptor)


def _move_into_place(temporary: Path, target: Path, overwrite: bool) -> None:
    """Move ``temporary`` to ``target``; a folder that is replaced is set aside in between."""
    if overwrite and target.is_symlink():
        raise _not_a_file(target, stat.S_IFLNK)
    if not temporary.is_dir():
        _sync_file(temporary)
        if overwrite:
            temporary.replace(target)
        else:
            _rename_new_file(temporary, target)
    elif overwrite and target.is_dir():
        backup = temporary.with_name(temporary.name + ".old")
        target.replace(backup)
        try:
            temporary.replace(target)
        except BaseException:
            backup.replace(target)
            raise
    else:
        _rename_new_folder(temporary, target)
    _sync_folder(target.parent)


def _rename_new_folder(temporary: Path, target: Path) -> None:
    """Rename a folder to a free name, or to that of an empty folder."""
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def _rename_new_file(temporary: Path, path: Path) -> None:
    """Rename a file to a name that must be free; else FileExistsError."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    except NotImplementedError:
        pass
    else:
        return
    # Without hard links the name is reserved first; an empty file is seen for an instant.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE, 0o666))
    temporary.replace(path)


def _write_all(descriptor: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def _truncate_to_whole_lines(descriptor: int, size: int) -> int:
    """Remove an incomplete last line, and return the remaining length in bytes."""
    length = size
    while length:
        start = max(0, length - _PIECE)
        os.lseek(descriptor, start, os.SEEK_SET)
        end = os.read(descriptor, length - start).rfind(b"\n") + 1
        length = start + end
        if end:
            break
    if length < size:
        os.ftruncate(descriptor, length)
    return length


def _append(descriptor: int, data: bytes, size: int) -> None:
    try:
        _write_all(descriptor, data)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)  # half a line would spoil the next one
        raise


def _require_file(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, not a file")


def _check_parent(path: Path) -> None:
    """Raise if nothing can be written below ``path``'s parent: it is a file, or not writable."""
    refuse_address(path)
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise refusal(path, NotADirectoryError(errno.ENOTDIR, f"{str(parent)!r} is not a folder"))
    if not os.access(parent, os.W_OK | os.X_OK):
        code = errno.EROFS if _is_read_only(parent) else errno.EACCES
        raise refusal(path, OSError(code, os.strerror(code)))


def _is_read_only(folder: Path) -> bool:
    """Return whether a folder is on a read-only file system."""
    if not hasattr(os, "statvfs"):
        return False
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _not_a_file(path: Path, mode: int) -> StorageError:
    return StorageError(
        f"{str(path)!r} is {kind_of(mode)}, which is not replaced: give another path"
    )


def _taken(path: Path) -> StorageError:
    remedies = Remedy("give another path"), Remedy("pass", overwrite=True)
    return StorageError(f"{str(path)!r} already exists", *remedies)


def reason(error: OSError) -> str:
    """Return the system's error message for a file."""
    if error.errno == errno.ELOOP:
        return "it is a link, which is not followed"
    return error.strerror or str(error) or type(error).__name__


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | SAFE)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, where the system can."""
    if os.name == "nt":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _discard(temporary: Path) -> None:
    with suppress(OSError):  # the error that matters was raised before this one
        temporary.unlink(missing_ok=True)
