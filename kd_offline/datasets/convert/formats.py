"""The table of formats, and detection of the format of a path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from kd_offline.datasets.convert import d3rlpy, expert_buffer
from kd_offline.datasets.convert.d4rl import exporter as d4rl_exporter
from kd_offline.datasets.convert.d4rl import importer as d4rl_importer
from kd_offline.datasets.convert.hdf5 import exporter as hdf5_exporter
from kd_offline.datasets.convert.hdf5 import importer as hdf5_importer
from kd_offline.datasets.convert.interchange import ConvertOptions, ImportedDataset
from kd_offline.datasets.convert.minari import exporter as minari_exporter
from kd_offline.datasets.convert.minari import importer as minari_importer
from kd_offline.datasets.convert.vault import exporter as vault_exporter
from kd_offline.datasets.convert.vault import importer as vault_importer
from kd_offline.datasets.convert.vault import store as vault_store
from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import NotADatasetError, Remedy, UnknownNameError, UsageError
from kd_offline.tracking.base import Observer

EXPERT_BUFFER = "expert-buffer"

Read = Callable[[Path, ConvertOptions], AbstractContextManager[ImportedDataset]]
Write = Callable[[ExpertBuffer, Path, ConvertOptions, Observer], list[str]]


@dataclass(frozen=True, slots=True)
class Format:
    """One other format; ``read`` is None if it is only written, ``write`` returns notes.

    ``cannot_hold`` maps patterns of array names, and ``manifest`` for the descriptions, to reasons.
    """

    title: str
    read: Read | None
    write: Write
    recognise: Callable[[Path], bool]
    cannot_hold: Mapping[str, str]
    is_target: Callable[[Path], bool]  # by the name of a new file
    by_agent: bool = False  # one agent may be exported alone


FORMATS: dict[str, Format] = {
    "hdf5": Format(
        title="HDF5 with the same arrays",
        read=hdf5_importer.read,
        write=hdf5_exporter.write,
        recognise=hdf5_importer.recognise,
        cannot_hold={},
        is_target=lambda path: path.suffix in (".h5", ".hdf5"),
    ),
    "vault": Format(
        title="Flashbax Vault, with the names of OG-MARL",
        read=vault_importer.read,
        write=vault_exporter.write,
        recognise=vault_store.recognise,
        cannot_hold={},
        is_target=lambda path: ".vlt" in (path.suffix, path.parent.suffix),
    ),
    "minari": Format(
        title="Minari, stored as HDF5",
        read=minari_importer.read,
        write=minari_exporter.write,
        recognise=minari_importer.recognise,
        cannot_hold={},
        is_target=lambda path: minari_exporter.is_id(path.name),
    ),
    "d4rl": Format(
        title="flat HDF5 in the manner of D4RL",
        read=d4rl_importer.read,
        write=d4rl_exporter.write,
        recognise=d4rl_importer.recognise,
        cannot_hold=d4rl_exporter.CANNOT_HOLD,
        is_target=lambda path: False,
        by_agent=True,
    ),
    "d3rlpy": Format(
        title="d3rlpy 2.1 HDF5, one agent",
        read=None,
        write=d3rlpy.write,
        recognise=d3rlpy.recognise,
        cannot_hold=d3rlpy.CANNOT_HOLD,
        is_target=lambda path: False,
        by_agent=True,
    ),
}
"""Name of a format -> its functions, and what it cannot hold."""

FORMAT_NAMES = (EXPERT_BUFFER, *FORMATS)


def find_source_format(source: str, named: str | None) -> str:
    """Return the format of the dataset at ``source``, or the one that the user named.

    Raises
    ------
    NotADatasetError
        There is nothing, or nothing that is recognised.
    """
    if named is not None:
        return _require_known(named)
    if "://" in source or open_files(source).exists(MANIFEST):
        return EXPERT_BUFFER
    path = Path(source).expanduser()
    for kind, candidate in FORMATS.items():
        if path.exists() and candidate.recognise(path):
            return kind
    problem = "is of no known format" if path.exists() else "does not exist"
    msg = f"{source!r} {problem}; formats are {', '.join(FORMAT_NAMES)}"
    raise NotADatasetError(msg, Remedy("give a dataset, and where in doubt", source_format=...))


def find_target_format(target: Path, named: str | None, source_kind: str) -> str:
    """Return the format to write: the one that the user named, or by the path.

    Raises
    ------
    UsageError
        The path does not say.
    """
    if named is not None:
        return _require_known(named)
    if source_kind != EXPERT_BUFFER:
        return EXPERT_BUFFER
    for kind, candidate in FORMATS.items():
        if candidate.is_target(target):
            return kind
    msg = f"{str(target)!r} does not tell which format to write"
    raise UsageError(msg, Remedy("give", f"as one of {', '.join(FORMATS)}", to=...))


def holds_dataset(path: Path) -> bool:
    """Tell whether ``path`` is a dataset of any format, which may be replaced."""
    return expert_buffer.recognise(path) or any(
        candidate.recognise(path) for candidate in FORMATS.values()
    )


def _require_known(kind: str) -> str:
    if kind not in FORMAT_NAMES:
        raise UnknownNameError(what="format", got=kind, allowed=FORMAT_NAMES)
    return kind
