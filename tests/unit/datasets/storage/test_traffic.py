"""Servers that crawl do not hold a command; a slow line may be allowed."""

import time
from datetime import timedelta

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.sharing.share import push
from kd_offline.datasets.storage import remote
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.traffic import TRANSFER_RATE
from kd_offline.errors import (
    KdOfflineError,
    StorageError,
    UsageError,
)
from kd_offline.schemas.dataset import FileRecord
from kd_offline.testing.factories import tiny_dataset
from tests import servers


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, tmp_path):
    monkeypatch.setitem(remote._RETRY, "max_retries", 1)
    monkeypatch.setitem(remote._RETRY, "backoff", {"init_backoff": timedelta(milliseconds=5)})
    monkeypatch.setenv("KD_OFFLINE_CACHE", "off")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("small") / "d.zarr")


OPENED = ("http", "zip", "s3", "hf")


def use(kind, url, dataset, monkeypatch):
    settings = {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "HF_ENDPOINT": url}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return {
        "http": lambda: ExpertBuffer.open(f"{url}/d.zarr"),
        "zip": lambda: ExpertBuffer.open(f"{url}/d.zip"),
        "s3": lambda: ExpertBuffer.open("s3://bucket/d.zarr"),
        "hf": lambda: ExpertBuffer.open("hf://datasets/lab/d"),
        "s3 push": lambda: push(dataset.path, "s3://bucket/d.zarr"),
        "hf push": lambda: push(dataset.path, "hf://datasets/lab/d"),
    }[kind]


def sentence(act, error=KdOfflineError):
    with pytest.raises(error) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def crawling(head=b""):
    """Send ``head``, then a byte ten times a second, for ever."""

    def answer(handler):
        handler.send_response(206 if "Range" in handler.headers else 200)
        handler.send_header("Content-Length", "100000")
        if "Range" in handler.headers:
            first, last = handler.headers["Range"].removeprefix("bytes=").split("-")
            handler.send_header("Content-Range", f"bytes {first}-{last}/100000")
        handler.end_headers()
        handler.wfile.write(head)
        for _ in range(100 if handler.command == "GET" else 0):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    return answer


@pytest.mark.parametrize("kind", OPENED)
def test_a_server_that_crawls_does_not_hold_a_command(small, monkeypatch, kind):
    monkeypatch.setattr(TRANSFER_RATE, "window", 0.3)
    began = time.monotonic()
    with servers.answering(crawling()) as url:
        words = sentence(use(kind, url, small, monkeypatch), StorageError)
    assert time.monotonic() - began < 5
    assert "bytes a second, less than 1,000: try again later, or set KD_OFFLINE_MIN_RATE" in words


def test_a_slow_line_may_be_allowed(monkeypatch):
    monkeypatch.setattr(TRANSFER_RATE, "window", 0.15)
    record = FileRecord(path="file", size=4, sha256="0" * 64)
    with servers.answering(crawling()) as url:
        files = open_files(url)
        sentence(lambda: files.read("file", record), StorageError)
        for rate in ("5", "0"):
            monkeypatch.setenv("KD_OFFLINE_MIN_RATE", rate)
            assert files.read("file", record) == b"     "
        for rate in ("quick", "-1", "nan", "inf"):
            monkeypatch.setenv("KD_OFFLINE_MIN_RATE", rate)
            assert "KD_OFFLINE_MIN_RATE is" in sentence(
                lambda: files.read("file", record), UsageError
            )


def test_one_quick_transfer_does_not_need_another_to_be_quick(monkeypatch):
    """The rate is that of everything that arrives at the same time."""
    monkeypatch.setattr(TRANSFER_RATE, "window", 0.05)
    with TRANSFER_RATE.transfer():
        for _ in range(3):
            time.sleep(0.06)
            TRANSFER_RATE.count_received("a", 100_000)
            TRANSFER_RATE.count_received("b", 0)
        time.sleep(0.06)
        with pytest.raises(StorageError, match="the server of 'b' sent 0 bytes a second"):
            TRANSFER_RATE.count_received("b", 0)
    time.sleep(0.06)
    with TRANSFER_RATE.transfer():  # the time between transfers does not count
        TRANSFER_RATE.count_received("b", 0)


def test_headers_that_trickle_in_are_given_up(monkeypatch):
    monkeypatch.setitem(remote._TIMES, "read_timeout", "0.3s")

    def answer(handler):
        for _ in range(100):
            handler.wfile.write(b"H")
            time.sleep(0.1)

    began = time.monotonic()
    with servers.answering(answer) as url:
        words = sentence(lambda: ExpertBuffer.open(f"{url}/d.zarr"), StorageError)
    assert time.monotonic() - began < 5
    assert "cannot reach the server" in words
