"""Recording side by side: workers play batches into files, which one process takes in order."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets import EpisodeBlock
from kd_offline.datasets.edit.merged_metadata import common_recording
from kd_offline.errors import MismatchError, StorageError
from kd_offline.execution.base import Executor
from kd_offline.execution.lending import close_lent, lent
from kd_offline.execution.threads import Threads
from kd_offline.files import make_folder, read_file, write_file
from kd_offline.networks.threads import computing_with
from kd_offline.recording.setup import RecordingSetup
from kd_offline.schemas.dataset import RecordingHeader, RecordingRecord
from kd_offline.schemas.record_recipe import RecordRecipe
from kd_offline.tracking.base import SILENT

_ALIGNED = 64  # bytes; arrays begin at multiples, so that they are used where they lie


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch of episodes in a file: full names, dtypes and shapes of its arrays, in order."""

    path: str
    size: int
    sha256: str
    arrays: tuple[tuple[str, str, tuple[int, ...]], ...]


_Played = tuple[list[_Batch], RecordingRecord]  # by one task; how its worker describes it


@dataclass(frozen=True, slots=True)
class _Task:
    """Plays a batch in each of its threads, from some episode on, and leaves them in files."""

    command: str  # another one for every call, so that a worker loads every expert anew
    recipe: RecordRecipe
    header: RecordingHeader  # what the recording states, and every worker must load
    folder: str

    @computing_with(1)
    def __call__(self, first: int) -> _Played:
        with lent(self.command, partial(_loaded, self)) as (setup, recording):
            stop = first + setup.batch * self.recipe.threads
            return [_stored(block, self.folder) for block in setup.blocks(first, stop)], recording


class DividedRecording:
    """Plays the batches of a recording in workers.

    Parameters
    ----------
    setup, header
        Of the recording, as this process would play and describe it.
    workers
        Where batches are played.
    folder
        For files of batches, until they are taken. All workers see it.
    """

    def __init__(
        self, setup: RecordingSetup, header: RecordingHeader, workers: Executor, folder: Path
    ) -> None:
        self._setup, self._workers = setup, workers
        self._task = _Task(secrets.token_hex(8), setup.recipe, header, str(folder.absolute()))
        self._recordings = [header.recording]
        self._failure: Exception | None = None

    @property
    def recording(self) -> RecordingRecord:
        """Facts that the recording machines have in common, besides the settings."""
        return common_recording(self._recordings)

    def blocks(self, first: int) -> Iterator[EpisodeBlock]:
        """Yield the episodes from ``first`` on in the batches of one process.

        Raises
        ------
        MismatchError
            A worker loaded another expert, partner or environment.
        StorageError
            The file of a batch was altered.
        """
        make_folder(Path(self._task.folder))
        each = self._setup.batch * self._setup.recipe.threads
        played = self._workers.map(self._task, range(first, len(self._setup.seeds), each))
        try:
            with Threads(1) as reading:  # so that workers get their next task at once
                for blocks in reading.map(self._read, self._before_an_error(played)):
                    yield from blocks
            if self._failure is not None:
                raise self._failure
        finally:
            close_lent()

    def _before_an_error(self, played: Iterator[_Played]) -> Iterator[_Played]:
        """Yield what was played before the first task that failed, whose error is kept."""
        try:
            yield from played
        except Exception as error:
            self._failure = error

    def _read(self, played: _Played) -> list[EpisodeBlock]:
        batches, recording = played
        if recording not in self._recordings:
            self._recordings.append(recording)
        return [_read_back(batch) for batch in batches]


@contextmanager
def _loaded(task: _Task) -> Iterator[tuple[RecordingSetup, RecordingRecord]]:
    """Load the setup of a task, and check that it plays what the command would play."""
    with ExitStack() as stack:
        setup = RecordingSetup(task.recipe, stack)
        header = setup.load_expert(SILENT)
        if _played_with(header) != _played_with(task.header):
            msg = (
                "a worker loaded another expert, partner or environment than the command that "
                "records: let all machines see the same files, and leave them as they are until "
                "the end"
            )
            raise MismatchError(msg)
        yield setup, header.recording


def _played_with(header: RecordingHeader) -> tuple[object, ...]:
    """Return what decides the episodes; the settings of a recording name the partner's digest."""
    recording = header.recording
    return header.environment, header.experts, recording.settings, recording.batch


def _stored(block: EpisodeBlock, folder: str) -> _Batch:
    """Write the arrays of a block to a new file, one after the other."""
    arrays = {name: np.ascontiguousarray(values) for name, values in block.flat().items()}
    pieces: list[Any] = []
    for values in arrays.values():
        pieces += values.data, bytes(-values.nbytes % _ALIGNED)
    data = b"".join(pieces)
    path = Path(folder, secrets.token_hex(8))  # a lost worker may still write another one
    write_file(path, data, durable=False)
    described = tuple((name, values.dtype.str, values.shape) for name, values in arrays.items())
    return _Batch(str(path), len(data), hashlib.sha256(data).hexdigest(), described)


def _read_back(batch: _Batch) -> EpisodeBlock:
    """Return the block of a file, and delete it."""
    path = Path(batch.path)
    data = read_file(path, batch.size)
    if hashlib.sha256(data).hexdigest() != batch.sha256:
        msg = (
            f"{batch.path!r} was altered after a worker wrote it: let nobody else write there, and "
            "go on with resume=True"
        )
        raise StorageError(msg)
    path.unlink(missing_ok=True)
    arrays, start = {}, 0
    for name, dtype, shape in batch.arrays:
        count = math.prod(shape)
        values = np.frombuffer(data, dtype, count, start).reshape(shape)
        arrays[name] = values
        start += values.nbytes + -values.nbytes % _ALIGNED
    return EpisodeBlock.of(arrays)
