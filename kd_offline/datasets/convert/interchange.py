"""Types and steps that the importers and exporters of all formats share."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.errors import DatasetError, MissingExtraError, Remedy, UnknownNameError
from kd_offline.schemas.dataset import DatasetManifest, RecordingHeader
from kd_offline.schemas.dataset_outputs import NotHeld
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.sealed_json import canonical_json, digest
from kd_offline.types import Array

# Rows of steps that are in memory at once.
WINDOW_ROWS = 8192


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """The user's options besides the two paths."""

    spec: EnvironmentSpec | None = None
    agent: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ImportedDataset:
    """A foreign dataset that is being imported; ``blocks`` reads lazily, and only once.

    ``manifest`` is that of the expert buffer that the source was exported from, if it is known. The
    result must then have the same id.
    """

    header: RecordingHeader
    blocks: Iterator[EpisodeBlock]
    steps: int
    manifest: DatasetManifest | None = None
    splits: Splits | None = None
    masks: Mapping[str, Array] = field(default_factory=dict)
    not_held: tuple[NotHeld, ...] = ()
    notes: tuple[str, ...] = ()


class ForeignError(DatasetError, ValueError):
    """A file of another format is damaged, or not of that format."""


CHECK_FORMAT = Remedy("check", source_format=...)


def foreign_error(path: Path, what: str, *advice: str | Remedy) -> Exception:
    """Return the error, one sentence, why ``path`` cannot be converted."""
    remedies = advice or ("get a fresh copy", CHECK_FORMAT)
    msg = f"{str(path)!r} cannot be converted: {what}"
    return ForeignError(msg, *remedies)


def import_library(name: str, purpose: str) -> ModuleType:
    """Return an optional library of the extra ``convert``.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError(name, "convert", purpose) from None


def unsupported_arrays(
    names: tuple[str, ...], cannot_hold: Mapping[str, str]
) -> tuple[NotHeld, ...]:
    """Return the arrays that a format cannot hold by its patterns, with the reasons."""
    unsupported = []
    for name in (*names, "manifest"):
        reasons = [why for pattern, why in cannot_hold.items() if fnmatchcase(name, pattern)]
        if reasons:
            unsupported.append(NotHeld(array=name, why=reasons[0]))
    return tuple(unsupported)


def row_ranges(rows: int, size: int = WINDOW_ROWS) -> Iterator[tuple[int, int]]:
    """Yield half-open ranges of at most ``size`` rows."""
    for start in range(0, rows, size):
        yield start, min(start + size, rows)


def episode_ranges(lengths: Array, rows: int = WINDOW_ROWS) -> Iterator[tuple[int, int]]:
    """Yield half-open ranges of episodes of at most ``rows`` steps, or of one episode."""
    ends = np.cumsum(lengths, dtype=np.int64)
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + rows, side="right")))
        yield first, last
        first = last


def episode_blocks(
    buffer: ExpertBuffer, names: Collection[str] | None = None
) -> Iterator[tuple[int, EpisodeBlock]]:
    """Yield the index of the first episode and a block, over a whole dataset.

    ``names``: the arrays to read, ``episodes/length`` among them; by default all but masks.
    """
    offsets, lengths = buffer.episodes("offset"), buffer.episodes("length")
    for first, last in episode_ranges(lengths):
        rows = int(offsets[first]), int(offsets[last - 1]) + int(lengths[last - 1])
        parts: dict[str, dict[str, Array]] = {"steps": {}, "final": {}, "episodes": {}}
        for name in buffer.names if names is None else names:
            group, short = name.split("/", 1)
            if group in parts:
                bounds = rows if group == "steps" else (first, last)
                parts[group][short] = buffer.read(name, *bounds)
        yield first, EpisodeBlock(**parts)


def rounding_losses(name: str, dtype: np.dtype[Any]) -> list[NotHeld]:
    """Return the loss of storing values of more than 32 bits as float32."""
    if dtype.itemsize <= 4:
        return []
    return [NotHeld(array=name, why=f"{dtype} values were rounded to float32")]


def team_reward(spec: EnvironmentSpec, reward: Array) -> Array:
    """Return the team reward of the first side, float64 [R]: the mean over its agents."""
    members = np.array(spec.side_of) == 0
    return np.asarray(reward[:, members].mean(axis=1, dtype=np.float64))


def agent_index(spec: EnvironmentSpec, agent: str | None) -> int | None:
    """Return the index of the agent to export, or None for all agents.

    Raises
    ------
    UnknownNameError
        There is no such agent.
    """
    if agent is None:
        return 0 if spec.n_agents == 1 else None
    if agent not in spec.agents:
        raise UnknownNameError(what="agent", got=agent, allowed=spec.agents)
    return spec.agents.index(agent)


def digest_path(path: Path) -> str:
    """Return the digest of a file, or of the paths and contents of a folder's files."""
    if path.is_file():
        return f"sha256:{_sha256(path)}"
    files = sorted(file for file in path.rglob("*") if file.is_file())
    table = [[file.relative_to(path).as_posix(), _sha256(file)] for file in files]
    return digest(canonical_json(table))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
