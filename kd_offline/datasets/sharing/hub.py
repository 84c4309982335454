"""Publish on the Hugging Face Hub in one commit, so that no partial dataset appears."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.sharing.targets import is_dataset_file
from kd_offline.datasets.storage.remote import (
    TRANSIENT_STATUS,
    check_online,
    hub_endpoint,
    split_hub_url,
)
from kd_offline.datasets.storage.traffic import TRAFFIC
from kd_offline.errors import KdOfflineError, MissingExtraError, Remedy, StorageError
from kd_offline.schemas.dataset import FileRecord

try:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError

    # Base class of its HTTP library's errors; failed connections are no OSError.
    HTTPError: type[Exception] = HfHubHTTPError.__mro__[1]
except ImportError as error:
    library = "huggingface_hub"
    raise MissingExtraError(library, "share", "publishing on the Hub") from error

# Errors of its HTTP library that a repetition does not solve.
_ADDRESS_ERRORS = {"TooManyRedirects", "UnsupportedProtocol", "LocalProtocolError", "InvalidURL"}
_MESSAGE = "Dataset pushed with kd-offline"


def commit_dataset(
    url: str,
    files: Sequence[FileRecord],
    manifest: bytes,
    content: Callable[[FileRecord], str | bytes],
    *,
    overwrite: bool,
) -> tuple[int, int]:
    """Commit a dataset; return the bytes sent, and those that the Hub already had.

    ``content`` returns the bytes of a file, or its path, so that they need not be in memory.

    Raises
    ------
    StorageError
        Another dataset is there, the Hub refuses, or it cannot be reached.
    """
    repo, revision, folder = split_hub_url(url)
    check_online(url)
    prefix = f"{folder}/" if folder else ""
    total = sum(file.size for file in files)
    api = HfApi(endpoint=hub_endpoint())
    try:
        api.create_repo(repo, repo_type="dataset", exist_ok=True)
        existing = _files_on_hub(api, repo, revision, folder)
        same = existing.get(f"{prefix}{MANIFEST}") == hashlib.sha256(manifest).hexdigest()
        if f"{prefix}{MANIFEST}" in existing and not same and not overwrite:
            msg = f"there is another dataset at {url!r}"
            other = Remedy("choose another place")
            raise StorageError(msg, other, Remedy("give", overwrite=True))
        new = [file for file in files if existing.get(f"{prefix}{file.path}") != file.sha256]
        if same and not new:
            return 0, total
        final_paths = {f"{prefix}{file.path}" for file in files} | {f"{prefix}{MANIFEST}"}
        changes: list[Any] = [
            CommitOperationDelete(path)
            for path in existing.keys() - final_paths
            if path.startswith(prefix) and is_dataset_file(path.removeprefix(prefix))
        ]
        changes += [CommitOperationAdd(f"{prefix}{file.path}", content(file)) for file in new]
        changes.append(CommitOperationAdd(f"{prefix}{MANIFEST}", manifest))
        api.create_commit(
            repo, changes, commit_message=_MESSAGE, repo_type="dataset", revision=revision
        )
    except KdOfflineError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        raise _hub_error(url, error) from error
    moved = sum(file.size for file in new) + len(manifest)
    TRAFFIC.add(sent=moved)
    return moved, total + len(manifest) - moved


def _files_on_hub(api: HfApi, repo: str, revision: str, folder: str) -> dict[str, str]:
    """Return path -> sha256 of the existing files, ``""`` if the Hub has none."""
    sha256_by_path = {}
    try:
        for item in api.list_repo_tree(
            repo, folder or None, recursive=True, revision=revision, repo_type="dataset"
        ):
            if hasattr(item, "size"):
                sha256_by_path[item.path] = item.lfs.sha256 if item.lfs else ""
    except (EntryNotFoundError, RevisionNotFoundError):
        return {}
    return sha256_by_path


def _hub_error(url: str, error: Exception) -> StorageError:
    """Return our error, one sentence, for an error of the Hub's library."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    misled = type(error).__name__ in _ADDRESS_ERRORS
    if (
        status is None
        and not misled
        and isinstance(error, HTTPError | ConnectionError | TimeoutError)
    ):
        why = f"cannot reach the Hub for {url!r} ({reason}): check the network and try again later"
    elif status in TRANSIENT_STATUS:
        why = f"the Hub answers {status} for {url!r}: try again later"
    elif misled or (status is None and isinstance(error, ValueError)):
        why = (
            f"{hub_endpoint()!r} does not answer {url!r} as the Hub does ({reason}): check "
            "HF_ENDPOINT"
        )
    else:
        why = (
            f"the Hub refuses {url!r} ({reason}): check the address and the token "
            "(HF_TOKEN, or hf auth login)"
        )
    return StorageError(why)
