"""Publishing on the Hugging Face Hub: one commit, so a dataset is there whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kd_offline.datasets.layout import MANIFEST
from kd_offline.datasets.remote import hub_endpoint, hub_parts
from kd_offline.datasets.store import Files, Folder
from kd_offline.datasets.traffic import TRAFFIC
from kd_offline.errors import MissingExtraError, StorageError
from kd_offline.schemas.dataset import FileRecord

try:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
except ImportError as error:
    library = "huggingface_hub"
    raise MissingExtraError(library, "share", "publishing on the Hub") from error


def commit(
    source: Files, text: bytes, files: Sequence[FileRecord], url: str, *, overwrite: bool
) -> tuple[int, int]:
    """Commit a dataset and return the bytes sent and those that the Hub had already.

    Raises
    ------
    StorageError
        Another dataset is there, the Hub refuses, or it cannot be reached.
    """
    repo, revision, folder = hub_parts(url)
    prefix = f"{folder}/" if folder else ""
    api = HfApi(endpoint=hub_endpoint())
    try:
        api.create_repo(repo, repo_type="dataset", exist_ok=True)
        here = _here(api, repo, revision, folder)
        known = {f"{prefix}{file.path}" for file in files} | {f"{prefix}{MANIFEST}"}
        strays = [path for path in here if path not in known and _ours(path, prefix)]
        if f"{prefix}{MANIFEST}" in here and not overwrite and not _same(source, text, url):
            msg = f"there is another dataset at {url!r}: choose another place or give --overwrite"
            raise StorageError(msg)
        new = [file for file in files if here.get(f"{prefix}{file.path}") != file.sha256]
        operations: list[Any] = [CommitOperationDelete(path) for path in strays]
        operations += [CommitOperationAdd(f"{prefix}{f.path}", _content(source, f)) for f in new]
        operations.append(CommitOperationAdd(f"{prefix}{MANIFEST}", text))
        api.create_commit(
            repo,
            operations,
            commit_message="Dataset pushed with kd-offline",
            repo_type="dataset",
            revision=revision,
        )
    except (HfHubHTTPError, OSError) as error:
        if isinstance(error, StorageError):
            raise
        msg = (
            f"the Hub refuses {url!r} ({str(error).strip().splitlines()[0][:200]}): check the "
            "address and the token (HF_TOKEN, or hf auth login)"
        )
        raise StorageError(msg) from error
    moved = sum(file.size for file in new)
    TRAFFIC.add(sent=moved + len(text))
    return moved + len(text), sum(file.size for file in files) - moved


def _here(api: HfApi, repo: str, revision: str, folder: str) -> dict[str, str]:
    """Return path and sha256 (empty where the Hub tells none) of what is there."""
    found = {}
    try:
        for item in api.list_repo_tree(
            repo, folder or None, recursive=True, revision=revision, repo_type="dataset"
        ):
            if hasattr(item, "size"):
                found[item.path] = item.lfs.sha256 if item.lfs else ""
    except (EntryNotFoundError, RevisionNotFoundError):
        return {}
    return found


def _ours(path: str, prefix: str) -> bool:
    """Tell whether a file would be taken for a part of the dataset."""
    below = path.removeprefix(prefix)
    return path.startswith(prefix) and below.split("/")[0] in (
        "steps",
        "final",
        "episodes",
        "masks",
        "zarr.json",
    )


def _same(source: Files, text: bytes, url: str) -> bool:
    from kd_offline.datasets.sources import open_files

    try:
        return open_files(url).read(MANIFEST) == text
    except FileNotFoundError:
        return False


def _content(source: Files, file: FileRecord) -> str | bytes:
    """Return what the Hub's client sends: a path where there is one, so that nothing is held."""
    if isinstance(source, Folder):
        return str(source.root / file.path)
    return source.read(file.path, file)
