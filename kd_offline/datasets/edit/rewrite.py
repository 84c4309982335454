"""Make a dataset from episodes of other datasets, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kd_offline.datasets.format import layout
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter, finished_dataset
from kd_offline.errors import UnknownNameError
from kd_offline.schemas.dataset import DatasetManifest, LineageRecord, RecordingHeader
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.types import Array, IntArray

# At most four such blocks are in memory: one is read, two are queued, one is written.
BLOCK_BYTES = 48 << 20


@dataclass(frozen=True, slots=True)
class EpisodeSelection:
    """Episodes of one parent, in order; ``columns`` replace or add episode columns."""

    parent: ExpertBuffer
    episodes: IntArray  # [e]
    columns: Mapping[str, Array] = field(default_factory=dict)  # bare name -> [e]


@dataclass(frozen=True, slots=True)
class RewritePlan:
    """The parts of a dataset that is to be made from others.

    ``arrays`` are full names of ``steps/*``, ``final/*`` and ``episodes/*`` that every part has;
    ``masks`` are bare names. Arrays that the writer derives are not listed.
    """

    header: RecordingHeader
    parts: tuple[EpisodeSelection, ...]
    arrays: tuple[str, ...]
    masks: tuple[str, ...]
    splits: Splits

    @property
    def n_episodes(self) -> int:
        """Number of episodes of the result."""
        return sum(len(part.episodes) for part in self.parts)


def rewrite(
    plan: RewritePlan,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> DatasetManifest:
    """Write the dataset of ``plan``; ``resume`` continues an interrupted attempt.

    With ``resume`` a finished dataset of the same plan is returned as it is.

    Raises
    ------
    StorageError
        Something is at ``output`` already, or writing failed.
    MismatchError
        The attempt to continue had another plan.
    CorruptDatasetError
        A parent is damaged.
    """
    done = (
        None if overwrite or not resume else finished_dataset(output, plan.header, plan.n_episodes)
    )
    if done is not None:
        return done
    with (
        observed(operation_of(plan.header.lineage, output), observers) as observer,
        DatasetWriter.create(output, plan.header, resume=resume, overwrite=overwrite) as writer,
    ):
        observer.result = manifest = write_plan(plan, writer, observer)
        return manifest


def write_plan(plan: RewritePlan, writer: DatasetWriter, observer: Observer) -> DatasetManifest:
    """Write the episodes of ``plan`` that are missing, and commit; raises as the writer does."""
    for block in _blocks(plan, writer.episodes_done):
        writer.append(block)
        observer.progress(writer.episodes_done, plan.n_episodes, "episodes")
    seconds = [part.parent.manifest.recording.seconds for part in plan.parts]
    known = [value for value in seconds if value is not None]
    return writer.commit(
        {name: _mask(plan, name) for name in plan.masks},
        seconds=sum(known) if known else None,
        splits=plan.splits,
    )


def operation_of(history: Sequence[LineageRecord], output: Path) -> Operation:
    """Return the operation that observers are told of: the last one of the lineage."""
    if not history:
        return Operation("rewrite", {}, output)
    return Operation(history[-1].operation, dict(history[-1].arguments), output)


def full_names(names: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """Return full names of arrays; ``logits`` stands for ``steps/logits``.

    Raises
    ------
    UnknownNameError
        There is no such array.
    """
    full = tuple(name if name in known else f"steps/{name}" for name in names)
    for name, short in zip(full, names, strict=True):
        if name not in known:
            raise UnknownNameError(what="array", got=short, allowed=known)
    return full


def copied_arrays(buffer: ExpertBuffer, without: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return the arrays of ``buffer`` that are copied: no masks, no derived arrays."""
    return tuple(
        name
        for name in buffer.names
        if not name.startswith("masks/") and not layout.rule_for(name).derived
        if name not in without
    )


def episode_slices(lengths: Array, row_bytes: int, block_bytes: int) -> Iterator[slice]:
    """Yield slices of episodes of at most ``block_bytes`` each, or of one episode."""
    ends = np.cumsum(lengths, dtype=np.int64)
    most, start = max(1, block_bytes // max(1, row_bytes)), 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, stop)
        start = stop


def row_bytes(buffer: ExpertBuffer, names: tuple[str, ...]) -> int:
    """Return the decoded bytes of one step in the arrays ``names``."""
    specs = [buffer.array(name).spec for name in names if name.startswith("steps/")]
    return sum(
        np.dtype(spec.dtype).itemsize * int(np.prod(spec.shape[1:], dtype=np.int64))
        for spec in specs
    )


def _blocks(plan: RewritePlan, skip: int) -> Iterator[EpisodeBlock]:
    """Yield the plan's episodes in blocks, without the first ``skip``."""
    for part in plan.parts:
        if skip >= len(part.episodes):
            skip -= len(part.episodes)
            continue
        chosen = part.episodes[skip:]
        columns = {name: values[skip:] for name, values in part.columns.items()}
        skip = 0
        stored = tuple(n for n in plan.arrays if n.removeprefix("episodes/") not in columns)
        lengths = part.parent.episodes("length")[chosen]
        for chunk in episode_slices(lengths, row_bytes(part.parent, stored), BLOCK_BYTES):
            arrays = part.parent.load(stored, chosen[chunk])
            arrays |= {f"episodes/{name}": values[chunk] for name, values in columns.items()}
            yield EpisodeBlock.of(arrays)


def _mask(plan: RewritePlan, name: str) -> Array:
    """Return a mask of all episodes: [N, O] if it is the same in all, else [E, N, O]."""
    full = f"masks/{name}"
    parts = [part.parent.load([full], part.episodes)[full] for part in plan.parts]
    return parts[0] if parts[0].ndim == len("NO") else np.concatenate(parts)
