"""Servers that refuse, hang, mislead or crawl: one sentence that says what to do, in good time."""

import gzip
import re
import socket
import struct
from typing import Any

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.sharing.share import pack
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.traffic import TRAFFIC
from kd_offline.errors import (
    CorruptDatasetError,
    KdOfflineError,
    NotADatasetError,
    StorageError,
    UsageError,
)
from tests import servers
from tests.unit.datasets.storage.openings import sentence, use

pytestmark = pytest.mark.usefixtures("impatient")


def reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    raise ConnectionError


def garbage(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    handler.close_connection = True


def status(code):
    return lambda handler: servers.reply(handler, b"<html>no</html>", code)


ANSWERS: dict[Any, Any] = {code: status(code) for code in (400, 401, 403, 404, 410, 429, 500, 503)}


ANSWERS |= {
    "html": lambda h: servers.reply(h, b"<html>hello</html>", 200, Content_Type="text/html"),
    "empty": lambda h: servers.reply(h, b""),
    "reset": reset,
    "garbage": garbage,
    "endless": lambda h: servers.reply(h, b"", 302, Location=h.path),
    "to a file": lambda h: servers.reply(h, b"", 302, Location="file:///etc/passwd"),
    "nowhere": lambda h: servers.reply(h, b"", 302),
}


OPENED = ("http", "zip", "s3", "hf")


PUSHED = ("s3 push", "hf push")


ALL = (*OPENED, *PUSHED)


TRANSIENT = {429, 500, 503, "reset", "garbage"}


SENTENCES: dict[Any, dict[str, str]] = {
    400: dict.fromkeys((*OPENED, "s3 push"), "answers 400 Bad Request: check the address"),
    401: dict.fromkeys(ALL, "refuse"),
    403: dict.fromkeys(ALL, "refuse"),
    404: dict.fromkeys(("http", "zip", "hf"), "there is no dataset at")
    | dict.fromkeys(("s3", "s3 push"), "there is nothing at"),
    410: dict.fromkeys((*OPENED, "s3 push"), "there is nothing at"),
    429: dict.fromkeys(ALL, "answers 429"),
    500: dict.fromkeys(ALL, "answers 500"),
    503: dict.fromkeys(ALL, "answers 503"),
    "html": dict.fromkeys(("http", "s3", "hf"), "manifest.json is not readable JSON")
    | {"zip": "does not give a part", "hf push": "does not answer .* as the Hub does"},
    "empty": dict.fromkeys(("http", "s3", "hf"), "manifest.json is not readable JSON")
    | {"zip": "does not end as a ZIP", "s3 push": "does not answer as s3:// needs it"}
    | {"hf push": "does not answer .* as the Hub does"},
    "reset": dict.fromkeys(ALL, "cannot reach"),
    "garbage": dict.fromkeys(ALL, "cannot reach"),
    "endless": dict.fromkeys((*OPENED, "s3 push"), "sends from one address to another in vain"),
    "to a file": dict.fromkeys((*OPENED, "s3 push"), "sends from one address to another in vain"),
    "nowhere": dict.fromkeys((*OPENED, "s3 push"), "sends from one address to another in vain"),
}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("answer", ANSWERS)
def test_every_answer_is_one_sentence(small, monkeypatch, answer, kind):
    def whole(handler):
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        ANSWERS[answer](handler)

    with servers.answering(whole) as url:
        words = sentence(use(kind, url, small, monkeypatch))
    assert re.search(SENTENCES[answer].get(kind, ""), words), words
    assert ("try again later" in words) == (answer in TRANSIENT), words


@pytest.mark.parametrize("kind", ALL)
def test_nobody_listens(small, monkeypatch, kind):
    url = f"http://127.0.0.1:{servers.free_port()}"
    words = sentence(use(kind, url, small, monkeypatch), StorageError)
    assert "cannot reach" in words
    assert "try again later" in words


@pytest.mark.parametrize("kind", ["s3", "s3 push"])
@pytest.mark.parametrize("answer", [403, 404, 500, None])
def test_missing_credentials_are_said_whatever_the_metadata_service_answers(
    small, monkeypatch, kind, answer
):
    def service(handler):
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        ANSWERS[answer](handler)

    with servers.answering(service) as url:
        act = use(kind, url, small, monkeypatch)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        nobody = f"http://127.0.0.1:{servers.free_port()}"
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", url if answer else nobody)
        words = sentence(act, StorageError)
    assert words.startswith("no credentials for 's3://bucket/d.zarr' were found: set them (AWS_")
    assert "AWS_SKIP_SIGNATURE=true" in words


def test_credentials_that_cannot_be_read_are_said(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    words = sentence(lambda: ExpertBuffer.open("gs://bucket/d.zarr"), StorageError)
    assert "no credentials for 'gs://bucket/d.zarr'" in words


@pytest.mark.parametrize(
    ("name", "address", "allowing"),
    [
        ("AWS_ENDPOINT_URL", "s3://bucket/d.zarr", "AWS_ALLOW_HTTP"),
        ("AZURE_STORAGE_ENDPOINT", "az://bucket/d.zarr", "AZURE_ALLOW_HTTP"),
        ("GOOGLE_BASE_URL", "gs://bucket/d.zarr", "GOOGLE_ALLOW_HTTP"),
    ],
)
def test_plain_http_is_said_with_what_allows_it(monkeypatch, name, address, allowing):
    monkeypatch.setenv(name, "http://127.0.0.1:9000")
    words = sentence(lambda: ExpertBuffer.open(address), UsageError)
    assert f"set {allowing}=true" in words
    monkeypatch.setenv(name, "127.0.0.1")
    assert "which is no address" in sentence(lambda: ExpertBuffer.open(address), UsageError)


@pytest.mark.parametrize("kind", ["hf", "hf push"])
@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_means_that_no_socket_is_opened(small, monkeypatch, kind, name):
    asked = []

    def answer(handler):
        asked.append(handler.path)
        servers.reply(handler, b"", 404)

    with servers.answering(answer) as url:
        act = use(kind, url, small, monkeypatch)
        monkeypatch.setenv(name, "1")
        words = sentence(act, StorageError)
        assert asked == []
        monkeypatch.setenv(name, "0")
        with pytest.raises(KdOfflineError):
            act()
        assert asked
    assert words.startswith(f"{name} is set, so nothing is asked of the Hub")
    assert "kd-offline pull" in words


def test_a_server_without_ranges_is_told_apart(small, tmp_path):
    pack(small.path, tmp_path / "d.zip")
    data = (tmp_path / "d.zip").read_bytes()
    with servers.answering(lambda handler: servers.reply(handler, data)) as url:
        words = sentence(lambda: ExpertBuffer.open(f"{url}/d.zip"), StorageError)
    assert "does not give a part of a file" in words
    assert "fetch the archive and give its path" in words
    assert "try again" not in words


def test_compressed_answers_are_not_unpacked(small):
    bomb = gzip.compress(bytes(50_000_000))
    listed = next(file for file in small.manifest.files if file.size > 500)

    def answer(handler):
        servers.reply(handler, bomb, Content_Encoding="gzip")

    before = TRAFFIC.received
    with servers.answering(answer) as url:
        data = open_files(url).read(listed.path, listed)
        with pytest.raises(CorruptDatasetError):
            ExpertBuffer.open(url)
    assert len(data) <= listed.size + 1
    assert TRAFFIC.received - before < 1_000_000


def test_an_archive_that_is_not_there_is_said(tmp_path):
    (tmp_path / "d.zip").write_bytes(b"")
    with pytest.raises(CorruptDatasetError, match="does not end as a ZIP"):
        ExpertBuffer.open(tmp_path / "d.zip")
    with pytest.raises(NotADatasetError):
        ExpertBuffer.open(tmp_path / "e.zip")
