"""Locks between processes: they exclude each other, and a process that ends holds nothing."""

import errno
import os
import subprocess
import sys
import time

import filelock
import pytest

from kd_offline import file_locks
from kd_offline.errors import StorageError
from kd_offline.file_locks import dead, in_turn, living, only_writer

HOLD = """
import sys, time
from pathlib import Path
from kd_offline.file_locks import in_turn, living, only_writer
place = Path(sys.argv[2])
what = {"only_writer": lambda: only_writer(place, "training"), "in_turn": lambda: in_turn(place),
        "living": lambda: living(place)}[sys.argv[1]]
with what():
    print("held", flush=True)
    time.sleep(600)
"""


class Holder:
    """Another process that holds a lock until it is killed."""

    def __init__(self, what, place):
        command = [sys.executable, "-c", HOLD, what, str(place)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def test_a_folder_has_one_writer_and_a_crash_frees_it(tmp_path):
    with Holder("only_writer", tmp_path) as other:
        with (
            pytest.raises(StorageError, match=r"another process is training in .*wait for it or"),
            only_writer(tmp_path, "training"),
        ):
            pass
        other.kill()
        with only_writer(tmp_path, "training"):
            pass
    if os.name != "nt":
        assert list(tmp_path.iterdir()) == []


def test_turns_are_waited_for_and_a_crash_ends_one(tmp_path):
    began = time.monotonic()
    with Holder("in_turn", tmp_path) as other:
        pid = other.process.pid
        waiting = [sys.executable, "-c", HOLD.replace("time.sleep(600)", ""), "in_turn", tmp_path]
        with subprocess.Popen(waiting, stdout=subprocess.PIPE, text=True) as second:
            time.sleep(0.2)
            assert second.poll() is None, f"it did not wait for {pid}"
            other.kill()
            assert second.stdout.read() == "held\n"
    assert time.monotonic() - began < 280


def test_a_process_is_dead_as_soon_as_it_was_killed(tmp_path):
    with Holder("living", tmp_path / "worker") as other:
        assert not dead(tmp_path / "worker")
        other.kill()
        assert dead(tmp_path / "worker")
    assert dead(tmp_path / "nobody")
    with living(tmp_path / "me"):
        assert not dead(tmp_path / "me")
    assert dead(tmp_path / "me")


@pytest.mark.parametrize("lock", [lambda p: only_writer(p, "training"), in_turn])
def test_a_file_system_without_locks_is_said_to_have_none(lock, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(file_locks, "lock_descriptor", refuse)
    with (
        pytest.raises(StorageError, match=r"cannot lock .*choose a folder on another disk"),
        lock(tmp_path),
    ):
        pass
    with pytest.raises(StorageError, match="cannot lock"), living(tmp_path / "me"):
        pass
    assert not dead(tmp_path / "me")


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*No such file"), in_turn(tmp_path / "x"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be linked or locked there")
def test_links_are_followed_where_the_user_named_them_and_nowhere_else(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with only_writer(tmp_path / "link", "training"):
        handle = os.open(tmp_path / "run", os.O_RDONLY)
        try:
            assert not filelock.lock_descriptor(handle, blocking=False)
        finally:
            os.close(handle)
    with pytest.raises(StorageError, match="it is a link"), in_turn(tmp_path / "link"):
        pass
