"""Reading in place from real servers, and from servers that fail or lie."""

import hashlib
import shutil
import threading
import time
from datetime import timedelta

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.datasets.sharing.share import pack, pull, push
from kd_offline.datasets.storage import remote
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.traffic import TRAFFIC
from kd_offline.errors import (
    CorruptDatasetError,
    MismatchError,
    NotADatasetError,
    StorageError,
    UsageError,
)
from kd_offline.schemas.dataset import FileRecord
from tests import servers

METADATA = "/zarr.json"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setitem(remote._RETRY, "max_retries", 3)
    monkeypatch.setitem(remote._RETRY, "backoff", {"init_backoff": timedelta(milliseconds=5)})


@pytest.fixture
def uncached(monkeypatch):
    monkeypatch.setenv("KD_OFFLINE_CACHE", "off")


def test_a_web_server_is_read_in_place(served, whole):
    found = ExpertBuffer.open(served)
    assert (found.id, found.names, found.where) == (whole.id, whole.names, served)
    for name in whole.names:
        assert np.array_equal(found.read(name), whole.read(name))
    episodes = np.array([3, 698, 5])
    mine, theirs = (buffer.load(["steps/obs"], episodes) for buffer in (whole, found))
    assert np.array_equal(mine["steps/obs"], theirs["steps/obs"])
    assert verify(served).ok


def test_only_the_chunks_asked_for_are_fetched(served, web, whole, uncached):
    found = ExpertBuffer.open(served)
    opened = web.fetched("d.zarr")
    assert opened == {"manifest.json", "zarr.json"} | {
        file.path for file in whole.manifest.files if file.path.endswith(METADATA)
    }
    web.forget()
    found.read("steps/logits", 9000, 9001)
    assert web.fetched("d.zarr") == {"steps/logits/c/1/0/0"}
    web.forget()
    found.read("steps/reward")
    assert web.fetched("d.zarr") == {f"steps/reward/c/{index}/0" for index in range(3)}


def test_the_bytes_that_were_moved_are_counted(served, web, uncached):
    before = TRAFFIC.received
    found = ExpertBuffer.open(served)
    found.read("steps/obs")
    assert TRAFFIC.received - before == web.sent()


def test_what_was_fetched_is_not_fetched_again_but_verified_anew(served, web, whole):
    first = ExpertBuffer.open(served).read("steps/obs")
    web.forget()
    assert np.array_equal(ExpertBuffer.open(served).read("steps/obs"), first)
    assert web.fetched("d.zarr") == {"manifest.json"}
    web.forget()
    assert verify(served, quick=True).ok
    assert web.sent() >= whole.manifest.size_bytes


def test_members_of_an_archive_are_not_fetched_again(web, whole):
    pack(whole.path, web.www / "kept.zip", overwrite=True)
    first = ExpertBuffer.open(f"{web.url}/kept.zip").read("steps/obs")
    again = ExpertBuffer.open(f"{web.url}/kept.zip")
    web.forget()
    assert np.array_equal(again.read("steps/obs"), first)
    assert web.sent() == 0


def test_files_of_an_array_are_fetched_at_the_same_time(whole, uncached):
    together = threading.Barrier(3, timeout=120)  # no chunk is answered before all are asked for

    def answer(handler):
        path = handler.path.removeprefix("/d.zarr/")
        if path.startswith("steps/obs/c/"):
            together.wait()
        servers.reply(handler, whole.files.read(path))

    with servers.answering(answer) as url:
        found = ExpertBuffer.open(f"{url}/d.zarr").read("steps/obs")
    assert np.array_equal(found, whole.read("steps/obs"))


def test_a_pin_holds_for_addresses(served, whole):
    assert ExpertBuffer.open(f"{served}@{whole.id}").id == whole.id
    with pytest.raises(MismatchError, match="replaced by another one"):
        ExpertBuffer.open(f"{served}@sha256:{'0' * 64}")


def test_an_archive_is_read_in_place_over_http_and_s3(web, whole, s3, tmp_path, uncached):
    pack(whole.path, web.www / "d.zarr.zip")
    url = f"{web.url}/d.zarr.zip"
    found = ExpertBuffer.open(url)
    assert found.id == whole.id
    web.forget()
    assert np.array_equal(found.read("steps/obs", 0, 10), whole.read("steps/obs", 0, 10))
    (request,) = web.requests()
    assert request.status == 206
    assert request.sent < whole.manifest.size_bytes / 4
    assert verify(url, quick=True).ok
    pull(f"{url}@{whole.id}", tmp_path / "d.zarr")
    assert verify(tmp_path / "d.zarr").ok


def test_an_object_store_is_read_in_place(s3, whole, uncached):
    push(whole.path, "s3://bucket/lab/d.zarr")
    found = ExpertBuffer.open("s3://bucket/lab/d.zarr/")
    assert np.array_equal(found.read("steps/obs"), whole.read("steps/obs"))
    assert verify("s3://bucket/lab/d.zarr").ok
    push(whole.path, "s3://bucket/lab/odd.zarr")
    _store("s3://bucket/lab/odd.zarr").write("steps/extra", b"x")
    (problem,) = verify("s3://bucket/lab/odd.zarr", quick=True).problems
    assert problem.where == "steps/extra"


def _store(url):
    return remote.Remote(url, remote.open_store(url), listable=True)


def _free(url):
    return f"http://127.0.0.1:{servers.free_port()}/{url}"


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("nothing/d.zarr", NotADatasetError, "there is no dataset at"),
        ("nothing/d.zip", NotADatasetError, "there is no dataset at"),
        ("forbidden/d.zarr", StorageError, "access to .* is refused"),
        ("secret/d.zarr", StorageError, "access to .* is refused"),
        ("broken/d.zarr", StorageError, "503"),
    ],
)
def test_what_a_server_refuses_is_one_sentence(web, path, error, reason):
    with pytest.raises(error, match=reason) as caught:
        ExpertBuffer.open(f"{web.url}/{path}")
    assert "\n" not in str(caught.value)
    assert f"{web.url}/{path}" in str(caught.value)


def test_what_an_object_store_refuses_is_one_sentence(s3, whole, monkeypatch):
    with pytest.raises(StorageError, match="no such bucket as in 's3://nowhere/d"):
        ExpertBuffer.open("s3://nowhere/d.zarr")
    with pytest.raises(NotADatasetError, match="no dataset at 's3://bucket/none"):
        ExpertBuffer.open("s3://bucket/none.zarr")
    with pytest.raises(StorageError, match="no such bucket as in 's3://nowhere/d"):
        push(whole.path, "s3://nowhere/d.zarr")
    monkeypatch.setenv("AWS_ENDPOINT_URL", _free(""))
    with pytest.raises(StorageError, match="cannot reach the server of 's3://bucket"):
        ExpertBuffer.open("s3://bucket/d.zarr")


def test_a_server_that_is_not_there_is_one_sentence():
    with pytest.raises(StorageError, match="cannot reach the server"):
        ExpertBuffer.open(_free("d.zarr"))


@pytest.mark.parametrize("url", ["https://me:secret@host/d", "https://host/d?token=secret"])
def test_an_address_with_a_password_is_refused_without_repeating_it(url):
    with pytest.raises(UsageError, match="environment") as caught:
        open_files(url)
    assert "me:secret" not in str(caught.value)


def test_a_request_that_fails_is_repeated(whole, uncached):
    failures: dict[str, int] = {}

    def answer(handler):
        path = handler.path.removeprefix("/d.zarr/")
        failures[path] = failures.get(path, 0) + 1
        if failures[path] == 1:
            servers.reply(handler, b"busy", 503)
        else:
            servers.reply(handler, whole.files.read(path))

    with servers.answering(answer) as url:
        found = ExpertBuffer.open(f"{url}/d.zarr").read("steps/obs")
    assert np.array_equal(found, whole.read("steps/obs"))


def _lying(whole, change):
    """Return an answer that serves the dataset, ``change`` deciding about chunks."""

    def answer(handler):
        path = handler.path.removeprefix("/d.zarr/")
        data = whole.files.read(path)
        if path.startswith("steps/obs/c/1/"):
            change(handler, data)
        else:
            servers.reply(handler, data)

    return answer


def _cut(handler, data):
    handler.close_connection = True
    servers.reply(handler, data[: len(data) // 2], Content_Length=str(len(data)))


LIES = {
    "shorter": lambda handler, data: servers.reply(handler, data[:-1]),
    "longer": lambda handler, data: servers.reply(handler, data + b"x"),
    "changed": lambda handler, data: servers.reply(handler, data[:50] + b"!" + data[51:]),
    "empty": lambda handler, data: servers.reply(handler, b""),
    "missing": lambda handler, data: servers.reply(handler, b"", 404),
    "cut off": _cut,
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_as_listed_is_noticed(whole, lie, tmp_path):
    with servers.answering(_lying(whole, LIES[lie])) as url:
        found = ExpertBuffer.open(f"{url}/d.zarr")
        with pytest.raises((CorruptDatasetError, StorageError), match=r"steps/obs|broke off"):
            found.read("steps/obs")
        assert np.array_equal(found.read("steps/obs", 0, 8000), whole.read("steps/obs", 0, 8000))
        with pytest.raises((CorruptDatasetError, StorageError), match=r"steps/obs|broke off"):
            pull(f"{url}/d.zarr", tmp_path / "d.zarr")
    with pytest.raises(NotADatasetError):
        ExpertBuffer.open(tmp_path / "d.zarr")
    with servers.answering(_lying(whole, servers.reply)) as url:
        done = pull(f"{url}/d.zarr", tmp_path / "d.zarr")
    assert done.bytes_skipped > 0
    assert verify(tmp_path / "d.zarr").ok


def test_a_server_that_never_ends_fills_nothing(whole, tmp_path):
    sent = []

    def endless(handler, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        block = bytes(1 << 16)
        while True:
            handler.wfile.write(block)  # until the other side hangs up
            sent.append(len(block))

    def manifest(handler):
        endless(handler, b"")

    with servers.answering(_lying(whole, endless)) as url:
        before = TRAFFIC.received
        with pytest.raises(CorruptDatasetError, match=r"steps/obs/c/1/0/0"):
            pull(f"{url}/d.zarr", tmp_path / "d.zarr")
        assert TRAFFIC.received - before < 2 * whole.manifest.size_bytes
        time.sleep(0.2)
        assert sum(sent) < 64 << 20  # what fits into the buffers on the way
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert stored < 2 * whole.manifest.size_bytes
    with (
        servers.answering(manifest) as url,
        pytest.raises(CorruptDatasetError, match=r"manifest\.json has"),
    ):
        ExpertBuffer.open(f"{url}/d.zarr")


def test_a_listed_file_is_read_no_further_than_its_size(web):
    (web.www / "large").mkdir(exist_ok=True)
    (web.www / "large" / "file").write_bytes(bytes(5 << 20))
    record = FileRecord(path="file", size=1000, sha256=hashlib.sha256(b"").hexdigest())
    assert len(open_files(f"{web.url}/large").read("file", record)) == 1001


def test_names_that_urls_escape_are_found(web, whole, uncached):
    shutil.copytree(whole.path, web.www / "my data & more.zarr")
    found = ExpertBuffer.open(f"{web.url}/my data & more.zarr")
    assert found.id == whole.id
    assert ExpertBuffer.open(f"{web.url}/my%20data%20&%20more.zarr").id == whole.id
