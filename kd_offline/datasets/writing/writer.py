"""The dataset writer: checks and queues blocks, and writes them in a thread."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from pydantic import ValidationError

from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import recording_header
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.storage.manifest_file import read_manifest
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.store import Files, Folder, lock_folder
from kd_offline.datasets.writing.blocks import EpisodeBlock, check_block
from kd_offline.datasets.writing.dataset_files import DatasetFiles
from kd_offline.datasets.writing.destination import claim_folder
from kd_offline.datasets.writing.dry_run import dry_run
from kd_offline.errors import CorruptDatasetError, MismatchError, Remedy, UsageError
from kd_offline.schemas.dataset import (
    DatasetManifest,
    Journal,
    RecordingHeader,
    RecordingRecord,
    ShardRecord,
)
from kd_offline.sealed_json import unseal
from kd_offline.types import Array

# Two queued blocks keep the thread busy while the next one is recorded.
_QUEUED_BLOCKS = 2
# Fields of the recording that may differ when it is continued.
_FREE_RECORDING_FIELDS = {"software", "machine", "started_at", "seconds", "code_revision"}

_LOG = logging.getLogger(__name__)

_Item = tuple[dict[str, Array], Array]  # arrays by full name, lengths


class DatasetWriter:
    """Writes one expert buffer; the folder becomes a dataset with :meth:`commit`.

    Use it in a ``with`` block. Leaving it without :meth:`commit`, by an error or Ctrl-C, flushes
    all appended episodes, and ``create(..., resume=True)`` continues after them. A killed process
    loses the calls of :meth:`append` of the last seconds, always whole calls.
    """

    def __init__(self, files: DatasetFiles, lock: IO[bytes]) -> None:
        self._files = files
        self._lock = lock
        self._queue: queue.Queue[_Item | None] = queue.Queue(_QUEUED_BLOCKS)
        self._failure: BaseException | None = None
        self._appended = files.episodes
        self._steps = files.rows
        self._thread = threading.Thread(
            target=self._write_blocks, name="dataset-writer", daemon=True
        )
        self._thread.start()

    @classmethod
    def create(
        cls,
        path: str | Path,
        header: RecordingHeader,
        *,
        resume: bool = False,
        overwrite: bool = False,
        journal_seconds: float = 5.0,
        shards: tuple[ShardRecord, ...] = (),
    ) -> DatasetWriter:
        """Begin a recording at ``path``, or continue an unfinished one.

        Parameters
        ----------
        path
            Folder of the dataset; made if it does not exist.
        header
            What is known beforehand. To continue, it must equal the one that was begun with,
            except for software, machine and times.
        resume
            Continue an unfinished recording; begin a new one if there is none.
        overwrite
            Delete a dataset or an unfinished recording that is there.
        journal_seconds
            How often, at most, appended episodes are made safe against a kill.
        shards
            Datasets that hold ``steps/*`` and ``final/*`` of all episodes, in this order. Then
            these are measured and not written, and an unfinished one cannot be continued.

        Raises
        ------
        StorageError
            Something is at ``path`` already, or the folder refuses.
        UsageError
            A setting cannot be kept in a dataset; nothing was begun.
        MismatchError
            The unfinished recording was begun with other settings.
        CorruptDatasetError
            The unfinished recording is damaged.
        """
        root = Path(path).expanduser()
        if resume and overwrite:
            msg = "resume and overwrite exclude each other: give one of them"
            raise UsageError(msg)
        dry_run(header)
        lock = claim_folder(root, resume=resume, overwrite=overwrite)
        try:
            files = DatasetFiles(Folder(root), header, journal_seconds, shards)
            if resume and files.folder.exists(layout.JOURNAL):
                files.restore(_matching_journal(files.folder, header))
            files.journal()
        except BaseException:
            lock.close()
            raise
        return cls(files, lock)

    @property
    def path(self) -> Path:
        """Folder of the dataset."""
        return self._files.folder.root

    @property
    def episodes_done(self) -> int:
        """Episodes appended so far, with those of a continued recording."""
        return self._appended

    @property
    def steps_done(self) -> int:
        """Steps appended so far, with those of a continued recording."""
        return self._steps

    def append(self, block: EpisodeBlock) -> None:
        """Queue whole episodes for writing; waits only while the queue is full.

        Raises
        ------
        UsageError
            The block does not fit the format or the environment.
        StorageError
            Writing failed, now or earlier.
        """
        self._raise_failure()
        if not self._thread.is_alive():
            msg = f"the writer of {str(self.path)!r} was closed: create it again with resume=True"
            raise UsageError(msg)
        arrays = check_block(block, self._files.header.environment, self._appended)
        lengths = block.lengths
        self._queue.put((arrays, lengths))
        self._appended += len(lengths)
        self._steps += int(lengths.sum())

    def commit(
        self,
        masks: Mapping[str, Array] | None = None,
        *,
        seconds: float | None = None,
        splits: Splits | None = None,
        version: tuple[int, int] | None = None,
        recording: RecordingRecord | None = None,
    ) -> DatasetManifest:
        """Finish the dataset: statistics, splits, digests, file table, and the manifest last.

        Parameters
        ----------
        masks
            Student masks by name, bool [N, O] or [E, N, O]; their descriptions are the header's.
        seconds
            Time that recording took, for the record.
        splits
            Which part every episode belongs to; None: drawn, by the header's ``heldout``.
        version
            Of the format, for a dataset that comes back as it was; None: the newest.
        recording
            How it was recorded, where other machines did that; None: as the header states.

        Raises
        ------
        UsageError
            Nothing was recorded, or a mask or the splits have a wrong shape.
        StorageError
            Writing failed; what is on disk can be continued.
        """
        mask_arrays = {name: np.asarray(mask) for name, mask in (masks or {}).items()}
        self._check_complete(mask_arrays)
        self._check_splits(splits)
        self._stop()
        try:
            self._raise_failure()
            manifest = self._files.finish(mask_arrays, seconds, splits, version, recording)
            self._files.folder.remove(layout.LOCK)
        except BaseException as error:
            self._failure = error  # the files are in an unknown state, so no journal may list them
            raise
        finally:
            self._release()
        return manifest

    def close(self) -> None:
        """Stop without finishing; it can be continued. Does nothing after :meth:`commit`."""
        if self._lock.closed:
            return
        self._stop()
        try:
            if self._failure is None:
                self._files.journal()
        finally:
            self._release()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is None:
            self._raise_failure()

    def _write_blocks(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is not None:
                continue  # empties the queue, so that append does not block
            try:
                self._files.append_episodes(*item)
            except BaseException as error:  # raised again by the next call
                self._failure = error

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _release(self) -> None:
        self._lock.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _check_complete(self, masks: Mapping[str, Array]) -> None:
        if self._appended == 0:
            msg = f"nothing was recorded to {str(self.path)!r}: append episodes before commit"
            raise UsageError(msg)
        spec = self._files.header.environment
        fixed = (spec.n_agents, spec.obs_width)
        for name, mask in masks.items():
            if mask.dtype != np.bool_ or mask.shape not in (fixed, (self._appended, *fixed)):
                msg = (
                    f"mask {name!r} is {mask.dtype} {list(mask.shape)}, but bool {list(fixed)} or "
                    f"{[self._appended, *fixed]} is needed"
                )
                raise UsageError(msg)

    def _check_splits(self, splits: Splits | None) -> None:
        if splits is None:
            return
        unknown = set(np.unique(splits.codes).tolist()) - set(splits.names.values())
        if splits.codes.shape != (self._appended,) or unknown:
            msg = (
                f"the splits have the shape {list(splits.codes.shape)} and the codes "
                f"{sorted(unknown)} without a name, but one named code for each of the "
                f"{self._appended} episodes is needed"
            )
            raise UsageError(msg)


def finished_dataset(
    path: str | Path, header: RecordingHeader, episodes: int
) -> DatasetManifest | None:
    """Return the manifest of a finished dataset with the same ``header``, None if there is none.

    Files that a killed writer left there are removed.

    Raises
    ------
    MismatchError
        The dataset there was made with other settings or has another number of episodes.
    CorruptDatasetError
        Its manifest is damaged.
    """
    files = open_files(path, cached=False)
    if not files.exists(layout.MANIFEST):
        return None
    manifest = read_manifest(files)
    before = recording_header(manifest).model_copy(update={"heldout": header.heldout})
    recording = header.recording.model_copy(update={"episodes": episodes})
    _require_same_settings(
        before, header.model_copy(update={"recording": recording}), files, "finished"
    )
    if isinstance(files, Folder):
        remove_leftovers(files)
    else:
        _say_finished(files)
    return manifest


def remove_leftovers(folder: Folder) -> None:
    """Warn that a dataset is already finished, and remove files of its killed writer."""
    _say_finished(folder)
    if folder.exists(layout.JOURNAL) or folder.exists(layout.LOCK):
        with lock_folder(folder.root):
            folder.remove(layout.JOURNAL)
            folder.remove(layout.LOCK)


def _say_finished(files: Files) -> None:
    _LOG.warning("%s is complete already: nothing was done", files.address)


def _matching_journal(folder: Folder, header: RecordingHeader) -> Journal:
    document = unseal(folder.read(layout.JOURNAL))
    try:
        journal = Journal.model_validate(document)
    except ValidationError:
        msg = f"the journal of the unfinished recording at {str(folder.root)!r} is damaged"
        again = Remedy("record again with", overwrite=True)
        raise CorruptDatasetError(msg, again) from None
    _require_same_settings(journal.header, header, folder, "unfinished")
    return journal


def _require_same_settings(
    before: RecordingHeader, header: RecordingHeader, files: Files, state: str
) -> None:
    begun, now = _settings(before), _settings(header)
    if begun != now:
        differing = sorted(k for k in begun.keys() | now.keys() if begun.get(k) != now.get(k))
        what = "unfinished recording" if state == "unfinished" else "finished dataset"
        msg = (
            f"the {what} at {files.address!r} was begun with other settings "
            f"({', '.join(differing)})"
        )
        again = Remedy("repeat what began it"), Remedy("choose another path")
        raise MismatchError(msg, *again, Remedy("give", overwrite=True))


def _settings(header: RecordingHeader) -> dict[str, object]:
    """Return the settings that a continued recording must share, as a flat dictionary."""
    head = header.model_dump(mode="json")
    recording = head.pop("recording")
    if shard := next((step["arguments"] for step in head["lineage"] if not step["parents"]), None):
        head |= {"lineage": head["lineage"][1:], "shard": shard}
    fixed = {k: v for k, v in recording.items() if k not in _FREE_RECORDING_FIELDS}
    return head | {f"recording.{key}": value for key, value in fixed.items()}
