"""Datasets in object stores, on web servers and on the Hugging Face Hub.

Every file is fetched in one request, and at most the bytes that the manifest lists. Failed requests
are repeated. Credentials and endpoints come from each service's own environment variables.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.format.resource_limits import MAX_MANIFEST_BYTES
from kd_offline.datasets.storage.addresses import scheme_of, split_pin
from kd_offline.datasets.storage.cache import Cache
from kd_offline.datasets.storage.traffic import TRAFFIC, TRANSFER_RATE
from kd_offline.errors import (
    KdOfflineError,
    MissingExtraError,
    Remedy,
    StorageError,
    UsageError,
)
from kd_offline.schemas.dataset import FileRecord

try:
    import obstore
    from obstore import exceptions, store
except ImportError as error:
    library = "obstore"
    raise MissingExtraError(library, "share", "reading a dataset from an address") from error

_RETRY = {"max_retries": 6, "retry_timeout": timedelta(minutes=2)}
# A transfer may take long on a slow line, but may not stall.
_TIMES = {"connect_timeout": "15s", "read_timeout": "60s", "timeout": "30m"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION; the files of ~/.aws are not "
    "read; AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "HF_TOKEN, or hf auth login",
}
_ENDPOINTS = {
    "s3": (("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"), "AWS_ALLOW_HTTP"),
    "gs": (("GOOGLE_BASE_URL",), "GOOGLE_ALLOW_HTTP"),
    "az": (("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"), "AZURE_ALLOW_HTTP"),
    "hf": (("HF_ENDPOINT",), ""),
}
"""Scheme -> variables that name the user's own server, and the one that allows plain http."""
# What the library says if neither the user nor the cloud machine has credentials.
_NO_CREDENTIALS = re.compile(
    r"/latest/(api/token|meta-data)|computeMetadata|/metadata/identity|token request|"
    r"token file|service account file|must be specified"
)
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_WRONG_ADDRESS = " in vain: check the address, and the region of a bucket"
_HUB = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(?P<folder>(/[\w.-]+)*)/?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Remote:
    """The files below one URL."""

    address: str
    store: Any  # an object store of obstore
    listable: bool
    cache: Cache | None = None
    readers: ClassVar[int] = 16

    def present(self) -> bool:
        """Tell whether there is a file at the address; a manifest, if it cannot be listed."""
        if not self.listable:
            return self.exists(MANIFEST)
        return next(iter(self.files() or ()), None) is not None

    def exists(self, path: str) -> bool:
        """Tell whether ``path`` is a file here."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Return the size of the file in bytes, None where there is none."""
        try:
            return int(obstore.head(self.store, path)["size"])
        except FileNotFoundError:
            return None
        except exceptions.BaseError as error:
            raise storage_error(self.address, error) from error

    def read(self, path: str, record: FileRecord | None = None) -> bytes:
        """Return the bytes of a file; with a ``record`` at most its size and one byte.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        StorageError
            The server cannot be reached, refuses, or there is no such bucket.
        """
        if record is None or self.cache is None:
            return self._fetch(path, MAX_MANIFEST_BYTES if record is None else record.size)
        return self.cache.get_or_fetch(record, lambda: self._fetch(path, record.size))

    def _fetch(self, path: str, size: int) -> bytes:
        try:
            return _read_body(self.address, obstore.get(self.store, path), size + 1)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise storage_error(self.address, error) from error
            raise FileNotFoundError(path) from error
        except exceptions.BaseError as error:
            raise storage_error(self.address, error) from error

    def write(self, path: str, data: bytes) -> None:
        """Send a file in one request; the store takes all of it or nothing."""
        try:
            obstore.put(self.store, path, data, use_multipart=False)
        except (FileNotFoundError, exceptions.BaseError) as error:
            raise storage_error(self.address, error) from error
        TRAFFIC.add(sent=len(data))

    def create(self, path: str, data: bytes) -> bool:
        """Send a file where there is none; False: one is there already.

        Of several that create one file at once, one alone gets True.

        Raises
        ------
        StorageError
            The server refuses, or cannot create under this condition.
        """
        try:
            obstore.put(self.store, path, data, mode="create", use_multipart=False)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            return False
        except (FileNotFoundError, exceptions.BaseError) as error:
            if _is_unsupported(error):
                msg = (
                    f"the server of {split_pin(self.address)[0]!r} cannot write a file only where "
                    "there is none, so that two writers could mix their files"
                )
                alone = Remedy("if nobody else writes there, give", overwrite=True)
                raise StorageError(msg, alone, "use another place") from error
            raise storage_error(self.address, error) from error
        TRAFFIC.add(sent=len(data))
        return True

    def remove(self, path: str) -> None:
        """Delete a file if it is there."""
        try:
            obstore.delete(self.store, path)
        except FileNotFoundError:
            return
        except exceptions.BaseError as error:
            raise storage_error(self.address, error) from error

    def files(self) -> Iterator[str] | None:
        """Yield every path; None for a web server, which cannot be listed."""
        return (str(meta["path"]) for meta in self.listing()) if self.listable else None

    def listing(self) -> Iterator[dict[str, Any]]:
        """Yield path, size, entity tag and time of the last change of every file."""
        try:
            for batch in obstore.list(self.store):
                yield from batch
        except (FileNotFoundError, exceptions.BaseError) as error:
            raise storage_error(self.address, error) from error


@dataclass(frozen=True, slots=True)
class RemoteRangeReader:
    """One remote file, read in ranges."""

    address: str
    store: Any
    name: str
    readers: ClassVar[int] = 16

    def size(self) -> int | None:
        """Return the size in bytes, None where there is no such file."""
        return Remote(self.address, self.store, listable=False).size(self.name)

    def read_range(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range."""
        try:
            response = obstore.get(
                self.store, self.name, options={"range": (offset, offset + length)}
            )
            return _read_body(self.address, response, length)
        except (FileNotFoundError, exceptions.BaseError) as error:
            raise storage_error(self.address, error) from error


def open_store(url: str) -> Any:
    """Return the object store of a URL; makes no request.

    Raises
    ------
    UsageError
        The URL is not one of a dataset.
    """
    scheme = scheme_of(url)
    headers: dict[str, str] = {}
    if scheme == "hf":
        check_online(url)
        url, headers = _hub_store(url)
    elif re.search(r"[?#]|//[^/]*@", url):
        msg = (
            f"the address {re.sub(r'//[^/]*@', '//...@', url)!r} holds a password, ? or #: leave "
            "them out, credentials are read from the environment"
        )
        raise UsageError(msg)
    _check_endpoint(scheme, url)
    options: dict[str, Any] = dict(_TIMES)
    if url.startswith("http://") or _is_set(_ENDPOINTS.get(scheme, ((), "none"))[1]):
        options["allow_http"] = True
    if headers:
        options["default_headers"] = headers
    # The server then checks the bytes before it confirms them.
    checks = {"checksum_algorithm": "SHA256"} if scheme == "s3" else {}
    try:
        return store.from_url(url, client_options=options, retry_config=_RETRY, **checks)
    except (ValueError, exceptions.BaseError) as error:
        raise storage_error(url, error) from error


def _is_unsupported(error: Exception) -> bool:
    """Tell whether a store, or its server, knows no conditional writing."""
    unknown = isinstance(error, exceptions.NotSupportedError)
    return unknown or "status code: 501" in str(error)


def storage_error(address: str, error: Exception) -> KdOfflineError:
    """Return our error, one sentence, for an error of the object store.

    It says to try again only if the problem may pass by itself.
    """
    plain = split_pin(address)[0]
    scheme = scheme_of(plain)
    text = str(error).split("\n")[0]
    status = re.search(r"status code: (?P<code>\d{3})(?P<words>[\w ]*)", text)
    code = int(status["code"]) if status else 0
    hint = f" ({_CREDENTIALS[scheme]})" if scheme in _CREDENTIALS else ""
    denied = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
    if "NoSuchBucket" in str(error):
        why = f"there is no such bucket as in {plain!r}: check the address"
    elif _NO_CREDENTIALS.search(text) or (not denied and "credential" in text.lower()):
        why = f"no credentials for {plain!r} were found: set them{hint}"
    elif denied or code in (401, 403):
        why = f"access to {plain!r} is refused: check the address and the credentials{hint}"
    elif "error sending request" in text:
        why = (
            f"cannot reach the server of {plain!r}: check the address and the network, and try "
            "again later"
        )
    elif "body error" in text:
        why = f"the connection to {plain!r} broke off: run the same command again"
    elif "redirect" in text or 300 <= code < 400:
        why = f"the server of {plain!r} sends from one address to another{_WRONG_ADDRESS}"
    elif isinstance(error, FileNotFoundError) or code in (404, 410):
        why = f"there is nothing at {plain!r}: check the address"
    elif "Range request not supported" in text:
        why = (
            f"the server of {plain!r} does not give a part of a file, as reading an archive in "
            "place needs: fetch the archive and give its path, or serve the folder of the dataset"
        )
    elif code:
        advice = "try again later" if code in TRANSIENT_STATUS else "check the address"
        why = f"the server of {plain!r} answers {code}{status and status['words']}: {advice}"
    elif "invalid" in text and "response" in text:
        why = f"the server of {plain!r} does not answer as {scheme}:// needs it: check the address"
    else:
        why = f"cannot use {plain!r} ({text[:200]}): check the address and the settings{hint}"
    return StorageError(why)


def md5_tag(data: bytes) -> str:
    """Return the entity tag that S3 and Google give to an object sent in one piece."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def split_hub_url(url: str) -> tuple[str, str, str]:
    """Return repository, revision and folder of an ``hf://`` URL.

    Raises
    ------
    UsageError
        It is not the URL of a dataset.
    """
    match = _HUB.fullmatch(url)
    if match is None:
        msg = f"{url!r} is not a dataset of the Hub: write hf://datasets/NAME/DATASET[@REVISION]"
        raise UsageError(msg)
    return match["repo"], match["revision"] or "main", match["folder"].strip("/")


def hub_endpoint() -> str:
    """Return the Hub's URL."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hub_store(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL at which the Hub keeps a dataset's files, and the request headers."""
    try:
        from huggingface_hub import get_token
    except ImportError as error:
        library = "huggingface_hub"
        raise MissingExtraError(library, "share", "reading from the Hub") from error
    repo, revision, folder = split_hub_url(url)
    token = get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    base = f"{hub_endpoint()}/datasets/{repo}/resolve/{revision}"
    return f"{base}/{folder}".rstrip("/"), headers


def _check_endpoint(scheme: str, url: str) -> None:
    """Refuse endpoints that the library cannot use, with a reason that it does not give."""
    names, allowing = _ENDPOINTS.get(scheme, ((), ""))
    for name in names:
        value = os.environ.get(name)
        if value is None:
            continue
        if not re.fullmatch(r"https?://[\w.\[\]:-]+(/\S*)?", value):
            msg = f"{name} is {value!r}, which is no address: write it as https://HOST"
            raise UsageError(msg)
        if value.startswith("http://") and allowing and not _is_set(allowing):
            msg = (
                f"{name} is {value!r}, so that {url!r} is reached without encryption: set "
                f"{allowing}=true to allow that, or give an https:// address"
            )
            raise UsageError(msg)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")


def check_online(url: str) -> None:
    """Raise an error for an ``hf://`` address if the environment forbids requests to the Hub.

    Raises
    ------
    StorageError
        ``HF_HUB_OFFLINE`` is set.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if _is_set(name):
            msg = (
                f"{name} is set, so nothing is asked of the Hub for {url!r}: unset it, or give the "
                "path of a copy that was made with kd-offline pull"
            )
            raise StorageError(msg)


def _read_body(address: str, response: Any, limit: int) -> bytes:
    """Return the body of a response, at most ``limit`` bytes; raises if it comes too slowly."""
    parts, remaining = [], limit
    with TRANSFER_RATE.transfer():
        for part in response.stream(min_chunk_size=1):
            TRANSFER_RATE.count_received(split_pin(address)[0], len(part))
            parts.append(bytes(part) if len(part) <= remaining else bytes(part)[:remaining])
            remaining -= len(parts[-1])
            if not remaining:
                break
    data = b"".join(parts)
    TRAFFIC.add(received=len(data))
    return data
