"""Recordings whose output is an address: recorded here, sent whole, and deleted here."""

import os
from pathlib import Path

import pytest

from kd_offline.datasets import ExpertBuffer, merge, verify, virtual_merge
from kd_offline.datasets.sharing import share
from kd_offline.datasets.sharing.share import push
from kd_offline.datasets.storage.remote import Remote, open_store
from kd_offline.errors import MismatchError, StorageError, UsageError
from kd_offline.file_locks import only_writer
from kd_offline.recording.addresses import staging
from kd_offline.recording.record import record
from kd_offline.tracking.base import FunctionObserver
from tests import servers

SPREAD = "mpe/simple_spread_v3"
SMALL = {"episodes": 8, "batch": 2, "threads": 1, "partner": None}


@pytest.fixture(scope="module")
def server():
    with servers.s3() as settings:
        yield settings


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """Return the address of an empty place; recordings are kept in an own folder until sent."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KD_OFFLINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture(scope="module")
def undivided(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undivided")
    return record(SPREAD, folder / "whole.zarr", **SMALL)


def test_shards_in_a_bucket_are_the_recording(undivided, bucket, tmp_path):
    places = [f"{bucket}/{k}.zarr" for k in (1, 2)]
    for k, place in enumerate(places, start=1):
        record(SPREAD, place, shard=f"{k}/2", **SMALL)
    assert not list((tmp_path / "here").iterdir())
    assert virtual_merge(places, f"{bucket}/whole.zarr").id == undivided.id
    assert merge(places, tmp_path / "m.zarr").id == undivided.id


def test_a_repeated_command_goes_on_where_it_was(undivided, bucket, monkeypatch):
    place, local = f"{bucket}/d.zarr", staging(f"{bucket}/d.zarr")

    def kill(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(share, "_commit", kill)
        with pytest.raises(KeyboardInterrupt):
            record(SPREAD, place, **SMALL)
    assert verify(local).ok
    with pytest.raises(StorageError, match=r"not sent, in .*resume=True"):
        record(SPREAD, place, **SMALL)
    assert record(SPREAD, place, resume=True, **SMALL).id == undivided.id
    assert not local.exists()
    sent = []
    monkeypatch.setattr(Remote, "write", lambda *given: sent.append(given))
    assert record(SPREAD, place, resume=True, **SMALL).id == undivided.id
    assert not sent
    assert not local.exists()
    with pytest.raises(MismatchError, match="begun with other settings"):
        record(SPREAD, place, resume=True, **SMALL | {"seed": 1})


def test_workers_record_for_an_address_also_when_one_is_killed(undivided, bucket, monkeypatch):
    """What the first command recorded and did not send, the next one sends."""
    here = Path.cwd()
    monkeypatch.setenv("TEST_PARENT", str(os.getpid()))
    monkeypatch.setenv("TEST_NOTE", str(here / "note"))
    given = SMALL | {"expert": "python:tests.unit.recording.test_divided:killed_once"}
    with monkeypatch.context() as patched:
        patched.setattr("kd_offline.recording.addresses.push", interrupted)
        with pytest.raises(KeyboardInterrupt):
            record(SPREAD, f"{bucket}/d.zarr", on="processes:1", **given)
    assert (here / "note").exists()
    made = record(SPREAD, f"{bucket}/d.zarr", on="processes:1", resume=True, **given)
    assert verify(f"{bucket}/d.zarr").ok
    assert made.id == record(SPREAD, here / "one.zarr", **given).id
    assert sorted(file.name for file in here.iterdir()) == ["note", "one.zarr"]


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_recording_that_is_being_sent_is_left_to_its_process(bucket):
    staging(f"{bucket}/d.zarr").mkdir()
    with (
        only_writer(staging(f"{bucket}/d.zarr"), "sending"),
        pytest.raises(StorageError, match="another process is recording or sending in"),
    ):
        record(SPREAD, f"{bucket}/d.zarr", resume=True, **SMALL)


def test_who_comes_second_keeps_what_was_recorded(undivided, bucket, tmp_path):
    other = tmp_path / "other.zarr"
    record(SPREAD, other, **SMALL | {"seed": 1})
    place = f"{bucket}/d.zarr"

    def meanwhile(*counts):
        push(other, place)

    with pytest.raises(
        StorageError,
        match=r"another dataset at .*; the recording is complete in .*d\.zarr\..*unsent",
    ) as refused:
        record(SPREAD, place, observers=[FunctionObserver(progress=meanwhile)], **SMALL)
    assert "\n" not in str(refused.value)
    assert ExpertBuffer.open(place).id == ExpertBuffer.open(other).id
    assert ExpertBuffer.open(staging(place)).id == undivided.id
    (replacing,) = (remedy for remedy in refused.value.remedies if remedy.operation)
    assert (replacing.operation, replacing.arguments) == (
        "push",
        {"dataset": str(staging(place)), "destination": place, "overwrite": True},
    )
    push(**replacing.arguments)
    assert ExpertBuffer.open(place).id == undivided.id
    push(other, place, overwrite=True)
    assert record(SPREAD, place, overwrite=True, **SMALL).id == undivided.id
    assert ExpertBuffer.open(place).id == undivided.id
    assert verify(place).ok


def test_recordings_for_places_of_the_same_name_do_not_meet_here(bucket):
    assert staging(f"{bucket}/a/d.zarr") == staging(f"{bucket}/a/d.zarr/")
    assert staging(f"{bucket}/a/d.zarr") != staging(f"{bucket}/b/d.zarr")


def test_addresses_that_cannot_be_written_are_refused_before_the_first_episode(bucket, tmp_path):
    for place, reason in (
        ("https://example.org/d.zarr", "only gives"),
        (f"{bucket}/d.zarr@sha256:{'0' * 64}", "carries an id"),
        (f"{bucket}/d.zarr.zip", "leave out .zip"),
        ("hf://datasets/lab", "not a dataset of the Hub"),
    ):
        with pytest.raises(UsageError, match=reason):
            record(SPREAD, place, **SMALL)
    with pytest.raises(UsageError, match="several experts is not sent"):
        record(SPREAD, f"{bucket}/d.zarr", **SMALL, expert=("bundled", "random"))
    with pytest.raises(StorageError, match="no such bucket"):
        record(SPREAD, "s3://absent/d.zarr", **SMALL)
    assert not list((tmp_path / "here").iterdir())
    assert not list(Remote(bucket, open_store(bucket), listable=True).listing())
    Remote(bucket, open_store(bucket), listable=True).write("d.zarr/manifest.json", b"{}")
    with pytest.raises(StorageError, match=r"there is a finished dataset at .* overwrite=True"):
        record(SPREAD, f"{bucket}/d.zarr", **SMALL)
    assert not list((tmp_path / "here").iterdir())
