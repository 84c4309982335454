"""Make a copy of a dataset with another manifest and other small arrays; files are copied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_offline.datasets.edit.rewrite import operation_of
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import require_whole
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.manifest_file import read_manifest_and_text, reread_manifest_text
from kd_offline.datasets.storage.store import Folder
from kd_offline.datasets.writing.array_writer import ArrayWriter
from kd_offline.datasets.writing.dataset_files import commit_manifest
from kd_offline.datasets.writing.destination import claim_folder
from kd_offline.datasets.writing.dry_run import require_storable
from kd_offline.datasets.writing.writer import remove_leftovers
from kd_offline.errors import CorruptDatasetError, MismatchError, Remedy, UsageError
from kd_offline.schemas.dataset import ArraySpec, DatasetManifest, FileRecord, LineageRecord
from kd_offline.sealed_json import seal, unseal
from kd_offline.tracking.base import Observer, observed
from kd_offline.types import Array


def rewrite_metadata(
    parent: ExpertBuffer,
    output: Path,
    facts: Mapping[str, Any],
    arrays: Mapping[str, Array] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> DatasetManifest:
    """Write a copy of ``parent`` in which some fields and small arrays are replaced.

    All other files are checked against their sha256 and copied byte for byte, so equal content
    keeps its id. With ``resume`` a finished dataset with these fields is returned as it is.

    Parameters
    ----------
    facts
        Keys of the manifest, as JSON, that replace the parent's.
    arrays
        Full name -> values of ``episodes/*`` or ``masks/*`` that replace or join the parent's.
    observers
        They receive the number of finished bytes.

    Raises
    ------
    StorageError
        Something is at ``output`` already, or writing failed.
    MismatchError
        The attempt to continue was another one.
    CorruptDatasetError
        The parent is damaged.
    """
    if resume and overwrite:
        msg = "resume and overwrite exclude each other: give one of them"
        raise UsageError(msg)
    require_whole(parent.where, parent.manifest)
    require_storable(facts)
    if resume and (done := _finished_before(Folder(output), facts)) is not None:
        return done
    history = [LineageRecord.model_validate(step) for step in facts.get("lineage", ())]
    with (
        observed(operation_of(history, output), observers) as observer,
        claim_folder(output, resume=resume, overwrite=overwrite),
    ):
        folder = Folder(output)
        _write_journal(folder, parent, facts)
        files = list(_copy_files(parent, folder, set(arrays or ()), observer))
        document = json.loads(reread_manifest_text(parent.files, parent.manifest))
        del document["manifest_digest"]
        listed = {file.path for file in files}
        for name, values in (arrays or {}).items():
            spec, written = _write_array(parent, folder, name, values)
            document["arrays"][name] = spec.model_dump(mode="json")
            files += written
            group = f"{name.split('/')[0]}/{layout.ZARR_JSON}"
            if group not in listed:
                files.append(folder.write(group, layout.group_metadata()))
                listed.add(group)
        document |= facts
        if arrays:  # the content is new, so it follows the newest rules
            own = tuple(document["format_version"])
            document["format_version"] = list(max(own, layout.FORMAT_VERSION))
        layout.update_identity(document)
        observer.result = manifest = commit_manifest(folder, document, files)
        folder.remove(layout.LOCK)
    return manifest


def _finished_before(folder: Folder, facts: Mapping[str, Any]) -> DatasetManifest | None:
    """Return the manifest if a dataset with these fields is already there, else None."""
    if not folder.exists(layout.MANIFEST):
        return None
    manifest, text = read_manifest_and_text(folder)
    document = json.loads(text)
    expected = json.loads(json.dumps(dict(facts)))
    if differing := sorted(key for key, value in expected.items() if document.get(key) != value):
        msg = (
            f"the finished dataset at {str(folder.root)!r} was made by another operation "
            f"({', '.join(differing)})"
        )
        again = Remedy("repeat the operation that made it"), Remedy("choose another path")
        raise MismatchError(msg, *again, Remedy("give", overwrite=True))
    remove_leftovers(folder)
    return manifest


def _write_journal(folder: Folder, parent: ExpertBuffer, facts: Mapping[str, Any]) -> None:
    """Write a journal that marks the folder as unfinished and names what is made.

    A recording that finds it has other settings and is refused.
    """
    document = {"parent": parent.id, **facts}
    if folder.exists(layout.JOURNAL):
        before = unseal(folder.read(layout.JOURNAL)) or {}
        if {key: before.get(key) for key in document} != document:
            msg = f"what was begun at {str(folder.root)!r} is another operation"
            again = Remedy("repeat the operation that began it")
            raise MismatchError(msg, again, Remedy("give", overwrite=True))
        return
    folder.write(layout.JOURNAL, seal(json.loads(json.dumps(document))), durable=True)


def _copy_files(
    parent: ExpertBuffer, folder: Folder, replaced: set[str], observer: Observer
) -> Iterator[FileRecord]:
    """Copy every file that stays, unless it is there already, and yield its record."""
    done, total = 0, parent.manifest.size_bytes
    for file in parent.manifest.files:
        done += file.size
        if any(file.path.startswith(f"{name}/") for name in replaced):
            continue
        if folder.size(file.path) != file.size or not _matches_record(
            folder.read(file.path, file), file
        ):
            data = parent.files.read(file.path, file)
            if not _matches_record(data, file):
                raise _damage_error(parent, file)
            folder.write(file.path, data)
        yield file
        observer.progress(done, total, "B")


def _matches_record(data: bytes, file: FileRecord) -> bool:
    return len(data) == file.size and hashlib.sha256(data).hexdigest() == file.sha256


def _damage_error(parent: ExpertBuffer, file: FileRecord) -> CorruptDatasetError:
    return CorruptDatasetError(
        f"{file.path} of the dataset at {parent.where!r} is not as its manifest lists it: run "
        "verify and get a fresh copy"
    )


def _write_array(
    parent: ExpertBuffer, folder: Folder, name: str, values: Array
) -> tuple[ArraySpec, list[FileRecord]]:
    """Write one small array in the chunks of its group; return its entries for the manifest."""
    rule, own = layout.rule_for(name, values.ndim), name.startswith("masks/")
    rows = parent.array("episodes/length").chunk_rows
    if own:
        rows = layout.chunk_rows(int(values[:1].nbytes))
    writer = ArrayWriter(
        name, rule.dtypes[0], values.shape[1:], rows, rule, folder, shrink_single_chunk=own
    )
    writer.append(values)
    return writer.finish(), list(writer.files.values())
