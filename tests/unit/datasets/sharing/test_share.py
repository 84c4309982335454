"""Copies between places: whole, resumed, refused, and of some arrays."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.datasets.sharing.share import default_output, pull, push
from kd_offline.errors import (
    CorruptDatasetError,
    DatasetError,
    MismatchError,
    NotADatasetError,
    StorageError,
    UsageError,
)
from kd_offline.testing.factories import tiny_dataset
from kd_offline.tracking.base import FunctionObserver

PLACES = ["folder", "s3"]


@pytest.fixture
def place(request, tmp_path):
    """An empty destination."""
    if request.param == "folder":
        return str(tmp_path / "copy.zarr")
    request.getfixturevalue("s3")
    return f"s3://bucket/{tmp_path.name}/copy.zarr"


everywhere = pytest.mark.parametrize("place", PLACES, indirect=True)


@everywhere
def test_a_copy_is_the_dataset(whole, place):
    seen = []
    watching = FunctionObserver(progress=lambda *progress: seen.append(progress))
    done = push(whole.path, place, observers=[watching])
    assert verify(place).ok
    assert (done.id, done.source, done.destination) == (whole.id, whole.where, place)
    assert done.files == len(whole.manifest.files) + 1
    assert done.bytes_moved == whole.manifest.size_bytes + whole.files.size("manifest.json")
    assert done.bytes_skipped == 0
    assert len(seen) == done.files - 1
    assert max(seen) == (whole.manifest.size_bytes, whole.manifest.size_bytes, "B")


@everywhere
def test_what_is_there_is_not_sent_again(whole, place):
    push(whole.path, place)
    done = push(whole.path, place)
    assert (done.bytes_moved, done.bytes_skipped) == (0, whole.manifest.size_bytes)


@everywhere
def test_a_copy_that_lost_or_changed_a_file_is_mended(whole, place):
    push(whole.path, place)
    target = _target(place)
    lost, changed = "steps/obs/c/0/0/0", "steps/obs/c/1/0/0"
    data = whole.files.read(changed)
    target.remove(lost)
    target.write(changed, data[:-1] + bytes([data[-1] ^ 1]))
    assert not verify(place, quick=True).ok
    done = push(whole.path, place)
    assert verify(place).ok
    assert done.bytes_moved == whole.files.size(lost) + whole.files.size(changed)


@everywhere
def test_another_dataset_is_replaced_only_on_request(whole, place, tmp_path):
    other = tiny_dataset(tmp_path / "other.zarr", seed=9, without=["steps/value"])
    push(other.path, place)
    with pytest.raises(StorageError, match=r"another dataset at .*overwrite=True"):
        push(whole.path, place)
    assert ExpertBuffer.open(place).id == other.id
    push(whole.path, place, overwrite=True)
    assert ExpertBuffer.open(place).id == whole.id
    push(other.path, place, overwrite=True)
    assert verify(place).ok, "no file of the larger dataset is left"


def _target(place):
    from pathlib import Path

    from kd_offline.datasets.sharing.targets import LocalTarget, ObjectTarget
    from kd_offline.datasets.storage.remote import Remote, open_store

    if "://" in place:
        return ObjectTarget(Remote(place, open_store(place), listable=True))
    Path(place).mkdir(exist_ok=True)
    return LocalTarget(Path(place))


def test_damaged_data_is_not_pushed(whole, tmp_path):
    bad = tmp_path / "bad.zarr"
    shutil.copytree(whole.path, bad)
    chunk = bad / "steps/reward/c/0/0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)
    with pytest.raises(CorruptDatasetError, match="damaged and was not sent: steps/reward"):
        push(bad, tmp_path / "copy.zarr")
    assert not (tmp_path / "copy.zarr").exists()
    with pytest.raises(CorruptDatasetError, match=r"steps/reward/c/0/0 .* not what its manifest"):
        pull(bad, tmp_path / "copy.zarr")
    with pytest.raises(NotADatasetError):
        ExpertBuffer.open(tmp_path / "copy.zarr")
    with pytest.raises(CorruptDatasetError):
        push(bad, tmp_path / "copy.zip")
    assert not list(tmp_path.glob("*.zip*"))


def test_an_unfinished_recording_is_not_pushed(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="not an expert buffer"):
        push(tmp_path / "empty", tmp_path / "copy.zarr")
    assert not (tmp_path / "copy.zarr").exists()


def test_a_dataset_is_not_copied_onto_or_into_itself(whole, s3, tmp_path):
    push(whole.path, tmp_path / "d.zarr")
    push(whole.path, "s3://bucket/itself/d.zarr")
    for place in (tmp_path / "d.zarr", tmp_path / "d.zarr" / "copy", "s3://bucket/itself/d.zarr/"):
        source = place if "s3:" in str(place) else tmp_path / "d.zarr"
        with pytest.raises(UsageError, match="the dataset itself"):
            pull(source, place, arrays=["logits"], overwrite=True)
        assert verify(source, quick=True).ok


def test_room_on_the_disk_is_looked_at_first(whole, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageError, match="free at"):
        push(whole.path, tmp_path / "copy.zarr")
    assert not (tmp_path / "copy.zarr").exists()


SCRIPT = """
import sys
from kd_offline.datasets.sharing.share import {verb}
from kd_offline.tracking.base import FunctionObserver
def wait(done, total, unit):
    print(done, flush=True)
    sys.stdin.readline()
observers = [FunctionObserver(progress=wait)]
{verb}(sys.argv[1], sys.argv[2], observers=observers)
"""


def _killed(verb, source, destination, after):
    """Run a copy in a process of its own, which is killed after so many files."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(verb=verb), source, destination],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    )
    for _ in range(after):
        assert process.stdout.readline(), "it ended before"
        process.stdin.write("\n")
        process.stdin.flush()
    process.send_signal(signal.SIGKILL)
    process.communicate()


@everywhere
def test_a_killed_push_is_no_dataset_and_continues(whole, place):
    skipped = -1
    for after in (0, 1, 12, 30, len(whole.manifest.files) - 1):
        _killed("push", str(whole.path), place, after)
        with pytest.raises(DatasetError):
            ExpertBuffer.open(place)
        with pytest.raises(DatasetError):
            verify(place)
    done = push(whole.path, place)
    skipped = done.bytes_skipped
    assert skipped > whole.manifest.size_bytes / 2
    assert done.bytes_moved + skipped == whole.manifest.size_bytes + len(_manifest(whole))
    assert verify(place).ok


def test_a_killed_pull_is_no_dataset_and_continues(served, whole, tmp_path):
    target = tmp_path / "d.zarr"
    for after in (1, 20, 45):
        _killed("pull", served, str(target), after)
        with pytest.raises(DatasetError):
            ExpertBuffer.open(target)
    done = pull(served, target)
    assert done.bytes_skipped > 0
    assert done.bytes_moved + done.bytes_skipped == whole.manifest.size_bytes + len(
        _manifest(whole)
    )
    assert verify(target).ok


def test_a_killed_overwrite_leaves_neither_dataset_and_continues(whole, tmp_path):
    other = tiny_dataset(tmp_path / "d.zarr", seed=9)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SCRIPT.format(verb="push").replace("rs=observers", "rs=observers, overwrite=True"),
            str(whole.path),
            str(other.path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.kill()
    process.communicate()
    with pytest.raises(DatasetError):
        ExpertBuffer.open(tmp_path / "d.zarr")
    push(whole.path, tmp_path / "d.zarr", overwrite=True)
    assert verify(tmp_path / "d.zarr").ok


def _manifest(buffer):
    return buffer.files.read("manifest.json")


def test_a_pull_moves_what_it_says(served, web, whole, tmp_path):
    done = pull(served, tmp_path / "d.zarr")
    assert done.bytes_moved == web.sent() == whole.manifest.size_bytes + len(_manifest(whole))
    assert verify(tmp_path / "d.zarr").ok
    assert not (tmp_path / "cache").exists(), "what is pulled is not kept twice"
    web.forget()
    again = pull(served, tmp_path / "d.zarr")
    assert again.bytes_moved == web.sent() == len(_manifest(whole))


def test_a_pull_takes_from_the_cache_what_is_there(served, web, whole, tmp_path):
    ExpertBuffer.open(served).read("steps/obs")
    web.forget()
    done = pull(served, tmp_path / "d.zarr")
    assert done.bytes_moved == web.sent()
    assert not any(path.startswith("steps/obs/") for path in web.fetched("d.zarr"))
    assert verify(tmp_path / "d.zarr").ok


def test_a_pinned_pull_refuses_another_dataset(served, whole, tmp_path):
    pull(f"{served}@{whole.id[:19]}", tmp_path / "d.zarr")
    with pytest.raises(MismatchError):
        pull(f"{served}@sha256:{'0' * 12}", tmp_path / "e.zarr")
    assert not (tmp_path / "e.zarr").exists()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://host/lab/spread.zarr", "spread.zarr"),
        ("s3://bucket/spread.zarr/@sha256:0123456789ab", "spread.zarr"),
        ("s3://bucket/spread.zarr.zip", "spread.zarr"),
        ("hf://datasets/lab/spread@v1.0", "spread.zarr"),
        ("hf://datasets/lab/spread@v1.0/small", "small.zarr"),
    ],
)
def test_a_pull_is_named_by_its_address(address, name):
    assert str(default_output(address)) == name
