"""Servers that crawl do not hold a command; a slow line may be allowed."""

import time

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.storage import remote
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.traffic import TRANSFER_RATE
from kd_offline.errors import (
    StorageError,
    UsageError,
)
from kd_offline.schemas.dataset import FileRecord
from tests import servers
from tests.unit.datasets.storage.openings import sentence, use

pytestmark = pytest.mark.usefixtures("impatient")


OPENED = ("http", "zip", "s3", "hf")


def crawling(head=b""):
    """Send ``head``, then a byte ten times a second, for 90 seconds."""

    def answer(handler):
        handler.send_response(206 if "Range" in handler.headers else 200)
        handler.send_header("Content-Length", "100000")
        if "Range" in handler.headers:
            first, last = handler.headers["Range"].removeprefix("bytes=").split("-")
            handler.send_header("Content-Range", f"bytes {first}-{last}/100000")
        handler.end_headers()
        handler.wfile.write(head)
        for _ in range(900 if handler.command == "GET" else 0):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    return answer


@pytest.mark.parametrize("kind", OPENED)
def test_a_server_that_crawls_does_not_hold_a_command(small, monkeypatch, kind):
    monkeypatch.setattr(TRANSFER_RATE, "window", 0.3)
    began = time.monotonic()
    with servers.answering(crawling()) as url:
        words = sentence(use(kind, url, small, monkeypatch), StorageError)
    assert time.monotonic() - began < 60
    assert "bytes a second, less than 1,000: try again later, or set KD_OFFLINE_MIN_RATE" in words


def test_a_slow_line_may_be_allowed(monkeypatch):
    monkeypatch.setattr(TRANSFER_RATE, "window", 0.15)
    record = FileRecord(path="file", size=4, sha256="0" * 64)
    with servers.answering(crawling()) as url:
        files = open_files(url)
        sentence(lambda: files.read("file", record), StorageError)
        for rate in ("0.01", "0"):
            monkeypatch.setenv("KD_OFFLINE_MIN_RATE", rate)
            assert files.read("file", record) == b"     "
        for rate in ("quick", "-1", "nan", "inf"):
            monkeypatch.setenv("KD_OFFLINE_MIN_RATE", rate)
            assert "KD_OFFLINE_MIN_RATE is" in sentence(
                lambda: files.read("file", record), UsageError
            )


def test_one_quick_transfer_does_not_need_another_to_be_quick(monkeypatch):
    """The rate is that of everything that arrives at the same time."""
    now = [0.0]
    monkeypatch.setattr("kd_offline.datasets.storage.traffic.time.monotonic", lambda: now[0])
    with TRANSFER_RATE.transfer():
        for _ in range(3):
            now[0] += 61
            TRANSFER_RATE.count_received("a", 100_000)
            TRANSFER_RATE.count_received("b", 0)
        now[0] += 61
        with pytest.raises(StorageError, match="the server of 'b' sent 0 bytes a second"):
            TRANSFER_RATE.count_received("b", 0)
    now[0] += 61
    with TRANSFER_RATE.transfer():  # the time between transfers does not count
        TRANSFER_RATE.count_received("b", 0)


def test_headers_that_trickle_in_are_given_up(monkeypatch):
    monkeypatch.setitem(remote._TIMES, "read_timeout", "0.3s")

    def answer(handler):
        for _ in range(900):
            handler.wfile.write(b"H")
            time.sleep(0.1)

    began = time.monotonic()
    with servers.answering(answer) as url:
        words = sentence(lambda: ExpertBuffer.open(f"{url}/d.zarr"), StorageError)
    assert time.monotonic() - began < 60
    assert "cannot reach the server" in words
