"""Servers on the loopback interface that datasets are shared with in tests and benchmarks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import Request, urlopen

import pytest

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
_CONFIG = """
daemon off; worker_processes 1; {user} pid {base}/nginx.pid; error_log {base}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format plain '$request_method $uri $status $body_bytes_sent';
  access_log {base}/access.log plain;
  client_body_temp_path {base}/t1; proxy_temp_path {base}/t2; fastcgi_temp_path {base}/t3;
  uwsgi_temp_path {base}/t4; scgi_temp_path {base}/t5;
  sendfile on;
  server {{
    listen 127.0.0.1:{port};
    root {base}/www;
    location /forbidden/ {{ return 403; }}
    location /secret/ {{ return 401; }}
    location /broken/ {{ return 503; }}
    location /slow/ {{ alias {base}/www/; limit_rate 400k; }}
  }}
}}
"""

_NUMBERS = count()


class Line(NamedTuple):
    """One line of the access log."""

    method: str
    path: str
    status: int
    sent: int


@dataclass(frozen=True)
class Nginx:
    """A running server: what lies in ``www`` is served below ``url``."""

    base: Path
    url: str

    @property
    def www(self) -> Path:
        return self.base / "www"

    def requests(self) -> list[Line]:
        """Return what was asked for since :meth:`forget`."""
        # A line is written after the client has its answer, and lines are written in order: what
        # was asked for before this request is there when its own line is.
        last = f"/last-{next(_NUMBERS)}"
        with suppress(HTTPError):
            urlopen(self.url + last)
        while True:
            lines = (self.base / "access.log").read_text().splitlines()
            if lines and last in lines[-1]:
                break
            time.sleep(0.005)
        found = []
        for line in lines:
            request, status, sent = line.rsplit(" ", 2)
            method, path = request.split(" ", 1)
            found.append(Line(method, path, int(status), int(sent)))
        return [line for line in found if not line.path.startswith("/last-")]

    def fetched(self, folder: str = "") -> set[str]:
        """Return the paths below ``folder`` of which something was sent."""
        start = f"/{folder}/" if folder else "/"
        found = (r for r in self.requests() if r.sent and r.status in (200, 206))
        return {r.path.removeprefix(start) for r in found}

    def sent(self) -> int:
        """Return the bytes of all contents that were sent since :meth:`forget`."""
        return sum(r.sent for r in self.requests() if r.status in (200, 206))

    def forget(self) -> None:
        """Empty the access log."""
        self.requests()
        os.truncate(self.base / "access.log", 0)


@contextmanager
def nginx(base: Path) -> Iterator[Nginx]:
    """Run nginx as an ordinary process that serves ``base/www``."""
    assert NGINX is not None
    (base / "www").mkdir(parents=True, exist_ok=True)
    port = free_port()
    user = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    config = base / "nginx.conf"
    config.write_text(_CONFIG.format(base=base, port=port, user=user))
    process = subprocess.Popen(
        [NGINX, "-p", str(base), "-c", str(config), "-e", str(base / "error.log")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        yield Nginx(base, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def s3(bucket: str = "bucket") -> Iterator[dict[str, str]]:
    """Run moto's S3 server with a bucket and give the environment that reaches it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        urlopen(Request(f"{endpoint}/{bucket}", method="PUT")).close()
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.stop()


_AZURITE = "devstoreaccount1"
_AZURITE_KEY = (  # which all of its installations have, see its README
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@contextmanager
def azure(folder: Path, bucket: str = "bucket") -> Iterator[dict[str, str]]:
    """Run Azurite (``npm install -g azurite``) with a container; give what reaches it."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed")
    port = free_port()
    place = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    process = subprocess.Popen(
        [program, "--silent", "--disableTelemetry", *place],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
        path = f"/{_AZURITE}/{_AZURITE}/{bucket}\nrestype:container"
        text = "PUT" + 12 * "\n" + signed + path
        mac = hmac.digest(base64.b64decode(_AZURITE_KEY), text.encode(), "sha256")
        headers["Authorization"] = f"SharedKey {_AZURITE}:{base64.b64encode(mac).decode()}"
        endpoint = f"http://127.0.0.1:{port}"
        container = f"{endpoint}/{_AZURITE}/{bucket}?restype=container"
        urlopen(Request(container, method="PUT", headers=headers)).close()
        yield {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": endpoint,
            "AZURE_ALLOW_HTTP": "true",
            "AZURE_STORAGE_ACCOUNT_NAME": _AZURITE,
            "AZURE_STORAGE_ACCOUNT_KEY": _AZURITE_KEY,
        }
    finally:
        process.terminate()
        process.wait(10)


_PAGE = 7  # objects in a page of a listing, so that lists of few have several


@contextmanager
def google(bucket: str = "bucket") -> Iterator[dict[str, str]]:
    """Answer the requests of obstore as Google's XML interface is documented to.

    Written for these tests: it shows that our requests have the right conditions and that answers
    are understood, and not what the real service does beside.
    """
    objects: dict[str, tuple[bytes, int, float]] = {}  # name -> data, generation, time
    generations, turn = count(1), threading.Lock()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        address = urlsplit(handler.path)
        place, _, name = unquote(address.path).removeprefix("/").partition("/")
        with turn:
            if place != bucket:
                reply(handler, b"<Error><Code>NoSuchBucket</Code></Error>", 404)
            elif not name:
                reply(handler, _page_of(objects, dict(parse_qsl(address.query))))
            elif handler.command == "PUT":
                wanted = handler.headers.get("x-goog-if-generation-match")
                if wanted is not None and int(wanted) != objects.get(name, (b"", 0, 0.0))[1]:
                    reply(handler, b"<Error><Code>PreconditionFailed</Code></Error>", 412)
                    return
                objects[name] = data, next(generations), time.time()
                reply(handler, b"", ETag=_tag(data), x_goog_generation=str(objects[name][1]))
            elif name not in objects:
                reply(handler, b"<Error><Code>NoSuchKey</Code></Error>", 404)
            elif handler.command == "DELETE":
                del objects[name]
                reply(handler, b"", 204)
            else:
                _give(handler, *objects[name])

    with answering(answer) as url:
        key = {"gcs_base_url": url, "disable_oauth": True}
        names = ("client_email", "private_key", "private_key_id")
        yield {
            "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key | dict.fromkeys(names, "")),
            "GOOGLE_ALLOW_HTTP": "true",
        }


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _give(handler: BaseHTTPRequestHandler, data: bytes, generation: int, changed: float) -> None:
    """Send an object, or the range of it that is asked for."""
    headers = {"ETag": _tag(data), "x_goog_generation": str(generation)}
    headers["Last_Modified"] = formatdate(changed, usegmt=True)
    given = handler.headers.get("Range")
    if given is None:
        reply(handler, data, **headers)
        return
    first, last = (int(part) for part in given.removeprefix("bytes=").split("-"))
    part = data[first : last + 1]
    headers["Content_Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
    reply(handler, part, 206, **headers)


def _page_of(objects: dict[str, tuple[bytes, int, float]], query: dict[str, str]) -> bytes:
    """Return a page of a listing, version 2, whose token is the name that it begins after."""
    after = query.get("continuation-token", "")
    names = sorted(n for n in objects if n.startswith(query.get("prefix", "")) and n > after)
    listed = "".join(
        f"<Contents><Key>{html.escape(name)}</Key><Size>{len(data)}</Size><ETag>{_tag(data)}"
        f"</ETag><LastModified>{datetime.fromtimestamp(changed, UTC).isoformat()}</LastModified>"
        "</Contents>"
        for name in names[:_PAGE]
        for data, _, changed in [objects[name]]
    )
    if len(names) > _PAGE:
        listed += f"<NextContinuationToken>{html.escape(names[_PAGE - 1])}</NextContinuationToken>"
    return f"<ListBucketResult>{listed}</ListBucketResult>".encode()


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Run a web server whose every request is handled by ``answer``, and give its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def reply(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    """Send one answer."""
    handler.send_response(status)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in ({"Content-Length": str(len(body))} | named).items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    message = "nginx did not start"
    raise RuntimeError(message)
