"""Datasets in object stores, on web servers and on the Hugging Face Hub.

Every file is fetched whole, in one request, and never more of it than the manifest lists; failed
requests are repeated. Credentials and endpoints come from the usual environment variables of each
service.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from kd_offline.datasets.layout import MANIFEST
from kd_offline.datasets.limits import MAX_MANIFEST_BYTES
from kd_offline.datasets.storage.addresses import scheme_of, split_pin
from kd_offline.datasets.storage.cache import Cache
from kd_offline.datasets.storage.traffic import TRAFFIC
from kd_offline.errors import KdOfflineError, MissingExtraError, StorageError, UsageError
from kd_offline.schemas.dataset import FileRecord

try:
    import obstore
    from obstore import exceptions, store
except ImportError as error:
    library = "obstore"
    raise MissingExtraError(library, "share", "reading a dataset from an address") from error

_RETRY = {"max_retries": 6, "retry_timeout": timedelta(minutes=2)}
# A transfer may take long on a slow line, but not stand still.
_TIMES = {"connect_timeout": "15s", "read_timeout": "60s", "timeout": "30m"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or AWS_SKIP_SIGNATURE=true "
    "for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "HF_TOKEN, or hf auth login",
}
_HUB = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(?P<folder>(/[\w.-]+)*)/?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Remote:
    """The files below one URL."""

    where: str
    store: Any  # an object store of obstore
    listable: bool
    cache: Cache | None = None
    readers: ClassVar[int] = 16

    def present(self) -> bool:
        """Tell whether there is anything at the address, or a manifest where nothing is listed."""
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
            raise refusal(self.where, error) from error

    def read(self, path: str, listed: FileRecord | None = None) -> bytes:
        """Return the bytes of a file, of a listed one at most its size and one byte.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        StorageError
            The server cannot be reached, refuses, or there is no such bucket.
        """
        if listed is None or self.cache is None:
            return self._fetch(path, MAX_MANIFEST_BYTES if listed is None else listed.size)
        return self.cache.through(listed, lambda: self._fetch(path, listed.size))

    def _fetch(self, path: str, size: int) -> bytes:
        try:
            found = obstore.get(self.store, path)
            if found.meta["size"] <= size:
                data = bytes(found.bytes())
            else:  # not what is listed: enough to tell, whatever the server would send
                data = b"".join(_first(found.stream(min_chunk_size=1), size + 1))
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise refusal(self.where, error) from error
            raise FileNotFoundError(path) from error
        except exceptions.BaseError as error:
            raise refusal(self.where, error) from error
        TRAFFIC.add(received=len(data))
        return data

    def write(self, path: str, data: bytes) -> None:
        """Send a file in one request, which the store takes whole or not at all."""
        try:
            obstore.put(self.store, path, data, use_multipart=False)
        except (FileNotFoundError, exceptions.BaseError) as error:
            raise refusal(self.where, error) from error
        TRAFFIC.add(sent=len(data))

    def remove(self, path: str) -> None:
        """Delete a file if it is there."""
        try:
            obstore.delete(self.store, path)
        except FileNotFoundError:
            return
        except exceptions.BaseError as error:
            raise refusal(self.where, error) from error

    def files(self) -> Iterator[str] | None:
        """Yield every path here; None for a web server, which tells nobody."""
        return (str(meta["path"]) for meta in self.listing()) if self.listable else None

    def listing(self) -> Iterator[dict[str, Any]]:
        """Yield path, size and entity tag of everything here."""
        try:
            for batch in obstore.list(self.store):
                yield from batch
        except (FileNotFoundError, exceptions.BaseError) as error:
            raise refusal(self.where, error) from error


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """One remote file, read in ranges."""

    where: str
    store: Any
    name: str
    readers: ClassVar[int] = 16

    def size(self) -> int | None:
        """Return the size in bytes, None where there is no such file."""
        return Remote(self.where, self.store, listable=False).size(self.name)

    def at(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range."""
        try:
            data = bytes(obstore.get_range(self.store, self.name, start=offset, length=length))
        except (FileNotFoundError, exceptions.BaseError) as error:
            raise refusal(self.where, error) from error
        TRAFFIC.add(received=len(data))
        return data


def connect(url: str) -> Any:
    """Return the object store below a URL, without a request.

    Raises
    ------
    UsageError
        The URL is not one of a dataset.
    """
    scheme = scheme_of(url)
    headers: dict[str, str] = {}
    if scheme == "hf":
        url, headers = _hub(url)
    elif re.search(r"[?#]|//[^/]*@", url):
        msg = (
            f"the address {re.sub(r'//[^/]*@', '//...@', url)!r} holds a password, ? or #: leave "
            "them out, credentials are read from the environment"
        )
        raise UsageError(msg)
    options: dict[str, Any] = dict(_TIMES)
    if url.startswith("http://") or _plain_http_allowed(scheme):
        options["allow_http"] = True
    if headers:
        options["default_headers"] = headers
    # A server of our choice then checks what arrives, before it says that it has it.
    checks = {"checksum_algorithm": "SHA256"} if scheme == "s3" else {}
    try:
        return store.from_url(url, client_options=options, retry_config=_RETRY, **checks)
    except (ValueError, exceptions.BaseError) as error:
        raise refusal(url, error) from error


def refusal(where: str, error: Exception) -> KdOfflineError:
    """Return the error of ours, in one sentence, for one of the object store."""
    plain = split_pin(where)[0]
    text = str(error).split("\n")[0]
    status = re.search(r"status code: (?P<code>\d{3} [\w ]+)", text)
    hint = f" ({_CREDENTIALS[scheme_of(plain)]})" if scheme_of(plain) in _CREDENTIALS else ""
    if "NoSuchBucket" in str(error):
        why = f"there is no such bucket as in {plain!r}: check the address"
    elif isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        why = f"access to {plain!r} is refused: check the address and the credentials{hint}"
    elif "error sending request" in text:
        why = f"cannot reach the server of {plain!r}: check the address and the network"
    elif "body error" in text:
        why = f"the connection to {plain!r} broke off: run the same command again"
    elif isinstance(error, FileNotFoundError):
        why = f"there is nothing at {plain!r}: check the address"
    elif "token request" in text or "must be specified" in text or "credential" in text.lower():
        why = f"no credentials for {plain!r} were found: set them{hint}"
    elif status:
        why = f"the server of {plain!r} answers {status['code']}: try again later"
    else:
        why = f"cannot use {plain!r} ({text[:200]}): check the address or try again later"
    return StorageError(why)


def md5_tag(data: bytes) -> str:
    """Return the entity tag that S3 and Google give to an object that was sent in one piece."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def hub_parts(url: str) -> tuple[str, str, str]:
    """Return repository, revision and folder of an ``hf://`` URL.

    Raises
    ------
    UsageError
        It is not the URL of a dataset.
    """
    found = _HUB.fullmatch(url)
    if found is None:
        msg = f"{url!r} is not a dataset of the Hub: write hf://datasets/NAME/DATASET[@REVISION]"
        raise UsageError(msg)
    return found["repo"], found["revision"] or "main", found["folder"].strip("/")


def hub_endpoint() -> str:
    """Return the Hub's URL."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hub(url: str) -> tuple[str, dict[str, str]]:
    """Return where the Hub keeps the files of a dataset, and the headers that it asks for."""
    try:
        from huggingface_hub import get_token
    except ImportError as error:
        library = "huggingface_hub"
        raise MissingExtraError(library, "share", "reading from the Hub") from error
    repo, revision, folder = hub_parts(url)
    token = get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    base = f"{hub_endpoint()}/datasets/{repo}/resolve/{revision}"
    return f"{base}/{folder}".rstrip("/"), headers


def _plain_http_allowed(scheme: str) -> bool:
    name = {"s3": "AWS_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}.get(scheme, "")
    return os.environ.get(name, "").lower() in ("1", "true")


def _first(parts: Iterator[Any], size: int) -> Iterator[bytes]:
    left = size
    for part in parts:
        yield bytes(part)[:left]
        left -= len(part)
        if left <= 0:
            return
