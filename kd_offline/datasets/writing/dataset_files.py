"""Write the files of a dataset from checked blocks: chunks, journal and manifest."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kd_offline.datasets.format import layout, resource_limits
from kd_offline.datasets.format.manifest import parse_manifest
from kd_offline.datasets.format.splits import IDENTITY, Splits, drawn_split
from kd_offline.datasets.storage.store import Folder
from kd_offline.datasets.writing.array_writer import ArrayWriter
from kd_offline.datasets.writing.statistics import count_actions, episode_returns, summarise
from kd_offline.errors import CorruptDatasetError, UsageError
from kd_offline.schemas.dataset import (
    SHARDED_GROUPS,
    ArraySpec,
    DatasetManifest,
    FileRecord,
    Journal,
    MaskRecord,
    RecordingHeader,
    RecordingRecord,
    RowSpec,
    ShardRecord,
    SplitRecord,
)
from kd_offline.sealed_json import seal
from kd_offline.types import Array

# Columns that statistics and splits need; in memory they take some 60 bytes an episode.
_KEPT_COLUMNS = ("length", "return", "agent_return", "won", *IDENTITY)
# Journals take at most about 1/20 of the time.
_JOURNAL_SHARE = 20


@dataclass(slots=True)
class DatasetFiles:
    """The files of a dataset from the first block to the manifest, written synchronously."""

    folder: Folder
    header: RecordingHeader
    journal_seconds: float
    shards: tuple[ShardRecord, ...] = ()  # where steps and final lie, if not here
    episodes: int = 0
    rows: int = 0
    writers: dict[str, ArrayWriter] = field(default_factory=dict)
    _episode_columns: dict[str, list[Array]] = field(default_factory=dict)
    _action_counts: Array = field(init=False)
    _chunk_rows: dict[str, int] = field(default_factory=dict)
    _next_journal: float = 0.0

    def __post_init__(self) -> None:
        spec = self.header.environment
        self._action_counts = np.zeros((spec.n_agents, spec.action_count), np.int64)

    def append_episodes(self, arrays: dict[str, Array], lengths: Array) -> None:
        """Write whole episodes; ``arrays`` are checked and have full names."""
        arrays = arrays | self._derived_columns(arrays["steps/reward"], lengths)
        if not self.writers:
            rows = {
                k: RowSpec(dtype=_stored_dtype(k, v), tail=v.shape[1:]) for k, v in arrays.items()
            }
            self._open_writers(rows, *_chunk_rows_of_groups(rows))
        self._require_same_arrays(arrays)
        for name, writer in self.writers.items():
            writer.append(arrays[name])
        self._keep_columns(arrays)
        self._count(arrays["steps/actions"], arrays["steps/alive"])
        self.episodes += len(lengths)
        self.rows += int(lengths.sum())
        if time.monotonic() >= self._next_journal:
            self.journal()

    def journal(self) -> None:
        """Flush everything to the disk, and write a journal that lists it."""
        started = time.monotonic()
        for writer in self.writers.values():
            writer.flush()
        journal = Journal(
            format_version=layout.FORMAT_VERSION,
            header=self.header,
            episodes=self.episodes,
            rows=self.rows,
            step_chunk_rows=self._chunk_rows.get("steps", 1),
            episode_chunk_rows=self._chunk_rows.get("episodes", 1),
            arrays={
                name: RowSpec(dtype=s.dtype, tail=s.row_shape) for name, s in self.writers.items()
            },
        )
        document = journal.model_dump(mode="json", exclude={"manifest_digest"})
        self.folder.write(layout.JOURNAL, seal(document), durable=True)
        now = time.monotonic()
        self._next_journal = now + max(self.journal_seconds, _JOURNAL_SHARE * (now - started))

    def restore(self, journal: Journal) -> None:
        """Continue from the files of an earlier writer."""
        self._check_chunk_sizes(journal)
        self._open_writers(journal.arrays, journal.step_chunk_rows, journal.episode_chunk_rows)
        self.episodes, self.rows = journal.episodes, journal.rows
        if not self.writers:
            return
        actions = self.writers["steps/actions"].restore(self.rows)
        alive = self.writers["steps/alive"].restore(self.rows)
        for part, alive_part in zip(actions, alive, strict=True):
            self._count(part, alive_part)
        for name, writer in self.writers.items():
            if name in ("steps/actions", "steps/alive"):
                continue
            parts = writer.restore(self.rows if name.startswith("steps/") else self.episodes)
            if name.removeprefix("episodes/") in _KEPT_COLUMNS:
                self._episode_columns[name.removeprefix("episodes/")] = list(parts)
            else:
                for _ in parts:
                    pass

    def finish(
        self,
        masks: Mapping[str, Array],
        seconds: float | None,
        given_splits: Splits | None = None,
        version: tuple[int, int] | None = None,
        recording: RecordingRecord | None = None,
    ) -> DatasetManifest:
        """Write the rest, then the manifest, which makes the folder a dataset."""
        if recording is not None:
            self.header = self.header.model_copy(update={"recording": recording})
        splits = self._add_derived(masks, given_splits)
        specs = {name: writer.finish() for name, writer in self.writers.items()}
        files = [file for writer in self.writers.values() for file in writer.files.values()]
        groups = ["", *sorted({f"{file.path.split('/')[0]}/" for file in files})]
        group_text = layout.group_metadata()
        files += [self.folder.write(f"{group}{layout.ZARR_JSON}", group_text) for group in groups]
        stated = version or (layout.SHARDS_SINCE if self.shards else layout.FORMAT_VERSION)
        document = self._document(specs, splits, masks, seconds, stated)
        return commit_manifest(self.folder, document, files)

    def _derived_columns(self, reward: Array, lengths: Array) -> dict[str, Array]:
        agent_return = episode_returns(reward, lengths)
        return {
            "episodes/offset": self.rows + np.cumsum(lengths) - lengths,
            "episodes/agent_return": agent_return,
            "episodes/return": agent_return.sum(axis=1),
        }

    def _check_chunk_sizes(self, journal: Journal) -> None:
        """Refuse a journal with larger chunks than any writer makes, before allocating them."""
        for name, row in journal.arrays.items():
            steps = name.startswith("steps/")
            rows = journal.step_chunk_rows if steps else journal.episode_chunk_rows
            size = rows * math.prod(row.tail) * np.dtype(row.dtype).itemsize
            if size > resource_limits.MAX_RANGE_BYTES:
                msg = (
                    f"the recording at {self.folder.address!r} was altered: its {layout.JOURNAL} "
                    f"claims chunks of {size:,} bytes for {name}, so record it anew"
                )
                raise CorruptDatasetError(msg)

    def _open_writers(self, rows: Mapping[str, RowSpec], steps: int, episodes: int) -> None:
        self._chunk_rows = {"steps": steps, "episodes": episodes}
        for name, row in rows.items():
            self._add_writer(name, row, steps if name.startswith("steps/") else episodes)

    def _add_writer(self, name: str, row: RowSpec, chunk_rows: int) -> None:
        rule = layout.rule_for(name, 1 + len(row.tail))
        stored = not (self.shards and name.startswith(SHARDED_GROUPS))
        self.writers[name] = ArrayWriter(
            name, row.dtype, row.tail, chunk_rows, rule, self.folder, stored=stored
        )

    def _require_same_arrays(self, arrays: Mapping[str, Array]) -> None:
        first = {name: writer.row_shape for name, writer in self.writers.items()}
        actual = {name: values.shape[1:] for name, values in arrays.items()}
        if first != actual:
            differing = sorted(
                n for n in first.keys() | actual.keys() if first.get(n) != actual.get(n)
            )
            msg = (
                f"every block must hold the same arrays of the same widths as the first one; "
                f"these differ: {', '.join(differing)}"
            )
            raise UsageError(msg)

    def _keep_columns(self, arrays: Mapping[str, Array]) -> None:
        for name in _KEPT_COLUMNS:
            if f"episodes/{name}" in arrays:
                self._episode_columns.setdefault(name, []).append(arrays[f"episodes/{name}"])

    def _count(self, actions: Array, alive: Array) -> None:
        width = self.header.environment.action_count
        self._action_counts += count_actions(actions, alive, width)

    def _table(self) -> dict[str, Array]:
        return {name: np.concatenate(parts) for name, parts in self._episode_columns.items()}

    def _add_derived(
        self, masks: Mapping[str, Array], given_splits: Splits | None
    ) -> dict[str, SplitRecord]:
        """Add the arrays that are known only at the end; return the splits' records."""
        splits = given_splits or self._drawn_splits()
        self._add_writer(
            "episodes/split", RowSpec(dtype="uint8", tail=()), self._chunk_rows["episodes"]
        )
        self.writers["episodes/split"].append(splits.codes)
        for name, mask in masks.items():
            row = RowSpec(dtype="bool", tail=mask.shape[1:])
            widest = int(np.prod(mask.shape[1:]))
            self._add_writer(f"masks/{name}", row, layout.chunk_rows(widest))
            self.writers[f"masks/{name}"].append(mask)
        return split_records(splits, self._table()["length"])

    def _drawn_splits(self) -> Splits:
        seed = self.header.recording.seed
        codes = drawn_split(self.episodes, self.header.heldout, seed, self._table())
        return Splits(codes, layout.SPLITS)

    def _document(
        self,
        specs: Mapping[str, ArraySpec],
        splits: Mapping[str, SplitRecord],
        masks: Mapping[str, Array],
        seconds: float | None,
        version: tuple[int, int],
    ) -> dict[str, Any]:
        """Return the manifest without its file table."""
        head = self.header.model_dump(mode="json", exclude={"heldout", "masks"})
        head["recording"] |= {"episodes": self.episodes, "seconds": seconds}
        moments = {n: s.moments for n, s in self.writers.items() if s.moments is not None}
        statistics = summarise(self._table(), self._action_counts, moments)
        described = {name: self.header.masks.get(name, MaskRecord()) for name in masks}
        document: dict[str, Any] = {"format_version": list(version), "id": ""} | head
        document |= {
            "masks": {name: mask.model_dump(mode="json") for name, mask in described.items()},
            "splits": {name: split.model_dump() for name, split in splits.items()},
            "statistics": statistics.model_dump(mode="json"),
            "arrays": {name: spec.model_dump(mode="json") for name, spec in specs.items()},
        }
        if self.shards:
            document["shards"] = [shard.model_dump(mode="json") for shard in self.shards]
        layout.update_identity(document)
        return document


def split_records(splits: Splits, lengths: Array) -> dict[str, SplitRecord]:
    """Return the splits' records for the manifest; ``lengths``: steps of the episodes, [E]."""
    of_part = {name: splits.codes == code for name, code in splits.names.items()}
    return {
        name: SplitRecord(
            code=splits.names[name],
            episodes=int(in_split.sum()),
            steps=int(lengths[in_split].sum()),
        )
        for name, in_split in of_part.items()
    }


def commit_manifest(
    folder: Folder, document: dict[str, Any], files: list[FileRecord]
) -> DatasetManifest:
    """Write the manifest, which makes the folder a dataset of exactly these ``files``.

    Other files, of an interrupted attempt, are deleted before.
    """
    listed = {file.path for file in files} | {layout.JOURNAL, layout.LOCK}
    for path in list(folder.files()):
        if path not in listed:
            folder.remove(path)
    document["files"] = [f.model_dump() for f in sorted(files, key=lambda file: file.path)]
    sealed = seal(document)
    manifest = parse_manifest(folder.address, sealed)  # checks that readers will accept it
    folder.write(layout.MANIFEST, sealed, durable=True)
    folder.remove(layout.JOURNAL)
    return manifest


def _stored_dtype(name: str, values: Array) -> Any:
    """Return the dtype to store: that of the values if the format allows it, else the default."""
    allowed = layout.rule_for(name, values.ndim).dtypes
    return values.dtype.name if values.dtype.name in allowed else allowed[0]


def _chunk_rows_of_groups(rows: Mapping[str, RowSpec]) -> tuple[int, int]:
    """Return the rows of a chunk of ``steps/*`` and of ``final/*`` and ``episodes/*``."""
    sizes: dict[bool, list[int]] = {True: [1], False: [1]}
    for name, row in rows.items():
        size = np.dtype(row.dtype).itemsize * int(np.prod(row.tail, dtype=np.int64))
        sizes[name.startswith("steps/")].append(size)
    steps, episodes = (layout.chunk_rows(max(sizes[k]), sum(sizes[k])) for k in (True, False))
    return steps, episodes
