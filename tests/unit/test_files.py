import errno
import multiprocessing
import os
import secrets
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_offline import files
from kd_offline.errors import StorageError, UsageError
from kd_offline.files import (
    append_file,
    aside,
    check_output,
    make_folder,
    make_subfolder,
    read_file,
    remove_tree,
    write_file,
    write_output,
)
from kd_offline.runs.folder import check_free

posix = pytest.mark.skipif(os.name == "nt", reason="no such links, locks or modes there")


def test_text_is_written_as_it_is(tmp_path):
    write_file(tmp_path / "x", "Größe\n\r\n")
    assert (tmp_path / "x").read_bytes() == "Größe\n\r\n".encode()


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), None])
def test_a_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch, step, error):
    file = tmp_path / "card.json"
    write_file(file, b"old")

    def refuse(*arguments):
        raise error or KeyboardInterrupt

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), refuse)
    with pytest.raises(StorageError if error else KeyboardInterrupt) as raised:
        write_file(file, b"new")
    if error:
        assert "card.json': No space left on device; free space" in str(raised.value)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "folder")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@posix
def test_a_file_has_the_mode_of_any_other_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_file(tmp_path / "x", b"")
        append_file(tmp_path / "z", "")
        (tmp_path / "y").write_bytes(b"")
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode for name in "xyz"} == {stat.S_IFREG | 0o666 & ~umask}


# Links that a stranger has planted.


@pytest.fixture
def victim(tmp_path):
    file = tmp_path / "home" / "authorized_keys"
    make_folder(file.parent)
    file.write_bytes(b"mine\n")
    yield file
    assert file.read_bytes() == b"mine\n"


@posix
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to], ids=["soft", "hard"])
@pytest.mark.parametrize("name", ["run.json", "run.json.partial", ".run.json.partial"])
def test_writing_never_follows_a_planted_link(tmp_path, victim, link, name):
    run = make_subfolder(tmp_path, "run")
    link(run / name, victim)
    write_file(run / "run.json", b"new")
    assert not (run / "run.json").is_symlink()
    assert (run / "run.json").read_bytes() == b"new"


@posix
def test_a_link_with_the_very_name_aside_is_not_followed(tmp_path, victim, monkeypatch):
    names = iter([b"\1" * 8, b"\2" * 8])
    monkeypatch.setattr(secrets, "token_hex", lambda size: next(names).hex())
    planted = tmp_path / f".x.{(bytes([1]) * 8).hex()}.partial"
    planted.symlink_to(victim)
    write_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert planted.is_symlink()


@posix
def test_appending_never_follows_a_planted_link(tmp_path, victim):
    (tmp_path / "soft").symlink_to(victim)
    with pytest.raises(StorageError, match=r"cannot write '.*soft': it is a link, which is not"):
        append_file(tmp_path / "soft", "key\n")
    (tmp_path / "hard").hardlink_to(victim)
    append_file(tmp_path / "hard", "key\n")
    assert (tmp_path / "hard").read_bytes() == b"mine\nkey\n"
    (tmp_path / "dangling").symlink_to(tmp_path / "home" / "absent")
    with pytest.raises(StorageError, match="it is a link"):
        append_file(tmp_path / "dangling", "key\n")
    assert not (tmp_path / "home" / "absent").exists()


@posix
def test_a_link_in_the_place_of_a_subfolder_is_refused(tmp_path, victim):
    (tmp_path / "resume").symlink_to(victim.parent)
    with pytest.raises(StorageError, match="is a link where a folder belongs: remove it yourself"):
        make_subfolder(tmp_path, "resume")
    assert make_subfolder(tmp_path, "other") == make_subfolder(tmp_path, "other")
    write_file(tmp_path / "taken", b"")
    with pytest.raises(StorageError, match="is a file where a folder belongs"):
        make_subfolder(tmp_path, "taken")


@posix
def test_removing_a_tree_removes_links_and_not_what_they_lead_to(tmp_path, victim):
    tree = make_subfolder(tmp_path, "tree")
    (tree / "folder").symlink_to(victim.parent)
    (tree / "file").symlink_to(victim)
    (tmp_path / "link").symlink_to(victim.parent)
    remove_tree(tree)
    remove_tree(tmp_path / "link")
    remove_tree(tmp_path / "absent")
    assert [entry.name for entry in tmp_path.iterdir()] == ["home"]


@posix
def test_reading_takes_files_alone_and_no_more_than_it_should(tmp_path, victim):
    (tmp_path / "link").symlink_to(victim)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match=r"cannot read '.*link': it is a link, which is not"):
        read_file(tmp_path / "link", 100)
    with pytest.raises(StorageError, match=r"cannot read '.*pipe': it is a pipe or a device"):
        read_file(tmp_path / "pipe", 100)
    with pytest.raises(StorageError, match=r"cannot read '.*home': (it is a folder|Is a dir)"):
        read_file(tmp_path / "home", 100)
    with pytest.raises(StorageError, match=r"cannot read '.*absent': No such file"):
        read_file(tmp_path / "absent", 100)
    assert read_file(victim, 5) == b"mine\n"
    with pytest.raises(StorageError, match="has more than 4 bytes"):
        read_file(victim, 4)


def test_a_line_that_the_disk_refuses_is_not_half_appended(tmp_path, monkeypatch):
    file = tmp_path / "metrics.jsonl"
    append_file(file, "1\n")
    write = os.write

    def little(handle, data):
        if len(data) < 3:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return write(handle, data[:3])

    monkeypatch.setattr(os, "write", little)
    with pytest.raises(StorageError, match="Disk quota exceeded; free space"):
        append_file(file, "2345\n")
    assert file.read_bytes() == b"1\n"


# Two processes, killed processes.


def _write_often(file, letter, times):
    for k in range(times):
        write_file(file, letter * (1000 + k))


def test_two_processes_that_write_one_file_never_tear_it(tmp_path):
    file = tmp_path / "report.html"
    write_file(file, "a" * 1000)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(file, x, 300)) for x in "ab"]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        text = file.read_text()
        assert len(text) >= 1000
        assert len(set(text)) == 1
        reads += 1
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads > 10
    assert list(tmp_path.iterdir()) == [file]


_HANG = """
import os, sys, time
from pathlib import Path
from kd_offline import files
def hang(handle):
    print("written", flush=True)
    time.sleep(600)
os.fsync = hang
if sys.argv[2] == "file":
    files.write_file(Path(sys.argv[1]), b"half")
with files.aside(Path(sys.argv[1])) as draft:
    draft.mkdir()
    (draft / "x").write_bytes(b"half")
    hang(0)
"""


@posix
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path, what):
    target = tmp_path / "x.json"
    command = [sys.executable, "-c", _HANG, str(target), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        write_file(target, b"first")
        [left] = set(tmp_path.iterdir()) - {target}
        assert left.name.startswith(".x.json.")
        process.send_signal(signal.SIGKILL)
    assert left.exists()
    write_file(tmp_path / "y.json", b"another file")
    assert left.exists()
    write_file(target, b"second")
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.json", "y.json"}


def test_the_longest_name_that_a_file_can_have(tmp_path):
    file = tmp_path / ("ü" * 127)
    write_file(file, b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


# The user's own files.


def test_a_file_of_the_users_own_is_kept_unless_asked(tmp_path):
    file = tmp_path / "a" / "b" / "report.html"
    check_output(file)
    write_output(file, b"mine")
    for refuse in (check_output, lambda file: write_output(file, b"new")):
        with pytest.raises(StorageError, match="already exists: give another path or pass overw"):
            refuse(file)
    assert file.read_bytes() == b"mine"
    check_output(file, overwrite=True)
    write_output(file, b"new", overwrite=True)
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_came_up_during_the_work_is_kept(tmp_path, monkeypatch):
    file = tmp_path / "report.html"
    fsync = os.fsync

    def somebody_is_faster(handle):
        fsync(handle)
        file.write_bytes(b"theirs")

    monkeypatch.setattr(os, "fsync", somebody_is_faster)
    with pytest.raises(StorageError, match="already exists"):
        write_output(file, b"new")
    assert file.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [file]


def test_without_hard_links_a_file_is_kept_as_well(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_output(tmp_path / "x", b"mine")
    assert (tmp_path / "x").read_bytes() == b"mine"
    monkeypatch.setattr(files, "check_output", lambda path, overwrite: None)
    with pytest.raises(StorageError, match="already exists"):
        write_output(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


@posix
@pytest.mark.parametrize("overwrite", [False, True])
def test_no_folder_link_or_device_is_replaced(tmp_path, victim, overwrite):
    (tmp_path / "link").symlink_to(victim)
    os.mkfifo(tmp_path / "pipe")
    kinds = {"home": "a folder", "link": "a link", "pipe": "a pipe or a device"}
    for name, kind in kinds.items():
        with pytest.raises(StorageError, match=f"{name}' is {kind}, which is not replaced"):
            write_output(tmp_path / name, b"new", overwrite=overwrite)
    with pytest.raises(StorageError, match="a pipe or a device"):
        write_output(Path(os.devnull), b"new", overwrite=overwrite)
    with pytest.raises(StorageError, match="authorized_keys' is not a folder"):
        check_output(victim / "below" / "file", overwrite=overwrite)


# Folders and large files, written aside.


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "above" / "export"
    with pytest.raises(ZeroDivisionError), aside(target) as draft:
        draft.write_bytes(b"%d" % (1 // 0))
    assert list(target.parent.iterdir()) == []
    with aside(target) as draft:
        draft.mkdir()
        write_file(draft / "x", b"1")
        assert not target.exists()
    with pytest.raises(StorageError, match="already exists"), aside(target) as draft:
        draft.mkdir()
    assert (target / "x").read_bytes() == b"1"
    with aside(target, overwrite=True) as draft:
        draft.mkdir()
        write_file(draft / "y", b"2")
    assert [entry.name for entry in target.iterdir()] == ["y"]
    assert list(target.parent.iterdir()) == [target]


def test_the_old_folder_comes_back_where_the_new_one_cannot_be_put_there(tmp_path, monkeypatch):
    target = make_subfolder(tmp_path, "export")
    write_file(target / "x", b"1")
    replace = Path.replace

    def refuse(self, other):
        if self.name == other.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="No space left"), aside(target, overwrite=True) as draft:
        draft.mkdir()
    assert (target / "x").read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [target]


@posix
def test_a_link_is_not_replaced_by_a_folder_nor_a_folder_by_a_file(tmp_path, victim):
    (tmp_path / "export").symlink_to(victim.parent)
    for overwrite in (False, True):
        with pytest.raises(StorageError), aside(tmp_path / "export", overwrite=overwrite) as draft:
            draft.mkdir()
        with pytest.raises(StorageError), aside(victim.parent, overwrite=overwrite) as draft:
            draft.write_bytes(b"new")
    assert (tmp_path / "export").is_symlink()


def test_a_large_file_is_put_in_its_place_at_the_end(tmp_path):
    target = tmp_path / "x.zip"
    with aside(target) as draft:
        draft.write_bytes(b"1")
    with pytest.raises(StorageError, match="already exists"), aside(target) as draft:
        draft.write_bytes(b"2")
    assert target.read_bytes() == b"1"
    with aside(target, overwrite=True) as draft:
        draft.write_bytes(b"2")
    assert target.read_bytes() == b"2"
    assert list(tmp_path.iterdir()) == [target]


def test_writing_into_a_folder_of_many_files_stays_quick(tmp_path):
    for k in range(2000):
        (tmp_path / f"{k}").touch()
    began = time.process_time()  # not the clock: other processes may have the processor
    for _ in range(10):
        write_file(tmp_path / "x", b"")
    assert time.process_time() - began < 2


@pytest.mark.parametrize("path", ["s3:/bucket/run", "runs/gs:/bucket/run"])
def test_an_address_does_not_become_a_folder_of_that_name(path):
    for refused in (make_folder, check_output):
        with pytest.raises(UsageError, match=r"is no folder but an address, to which only"):
            refused(Path(path))
    with pytest.raises(UsageError, match="is no folder but an address"):
        check_free(path)
