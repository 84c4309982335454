"""``convert``: export an expert buffer to another format, or import one; the table of formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from kd_offline.datasets.convert import d3rlpy, expert_buffer
from kd_offline.datasets.convert.d4rl import exporter as d4rl_exporter
from kd_offline.datasets.convert.d4rl import importer as d4rl_importer
from kd_offline.datasets.convert.hdf5 import exporter as hdf5_exporter
from kd_offline.datasets.convert.hdf5 import importer as hdf5_importer
from kd_offline.datasets.convert.interchange import (
    ConvertOptions,
    ImportedDataset,
    unsupported_arrays,
)
from kd_offline.datasets.convert.minari import exporter as minari_exporter
from kd_offline.datasets.convert.minari import importer as minari_importer
from kd_offline.datasets.convert.vault import exporter as vault_exporter
from kd_offline.datasets.convert.vault import importer as vault_importer
from kd_offline.datasets.convert.vault import store as vault_store
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import final_value_warning
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.writing.destination import check_name
from kd_offline.errors import NotADatasetError, Remedy, StorageError, UnknownNameError, UsageError
from kd_offline.files import aside
from kd_offline.recipes import explain
from kd_offline.schemas.dataset_outputs import ConvertOutput, NotHeld
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.tracking.base import Observer, Operation, observed

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
    if "://" in source or open_files(source).exists(layout.MANIFEST):
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


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str | None = None,
    source_format: str | None = None,
    spec: EnvironmentSpec | str | Path | None = None,
    agent: str | None = None,
    name: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> ConvertOutput:
    """Convert a dataset; the source or the target is an expert buffer.

    Parameters
    ----------
    source, target
        What to read, and what to write; it is written aside and renamed when it is whole.
    to, source_format
        ``expert-buffer`` or a name in ``kd_offline.datasets.convert.convert.FORMATS``; by default
        what the paths say.
    spec
        The environment of an imported dataset, or a JSON file of it; by default what the source
        says, and made-up names for the rest.
    agent
        Export this agent alone, to formats that hold one.
    name
        Name of an imported dataset.
    strict
        Refuse where the target cannot hold something.
    overwrite
        Replace a dataset that is at ``target``.
    observers
        They receive the number of finished steps.

    Raises
    ------
    UsageError
        The formats, the environment or the agent do not fit, or ``strict`` is violated.
    MissingExtraError
        The format's library is not installed.
    DatasetError
        The source is damaged, or not what it is said to be.
    StorageError
        The target exists or cannot be written.
    """
    source_address, target_path = str(source), Path(target).expanduser()
    if "://" in str(target):
        msg = f"{str(target)!r} is not on this machine: convert to a local path and push that"
        raise UsageError(msg)
    check_name(name)
    source_kind = find_source_format(source_address, source_format)
    kinds = source_kind, find_target_format(target_path, to, source_kind)
    if (kinds[0] == EXPERT_BUFFER) == (kinds[1] == EXPERT_BUFFER):
        raise _unsupported_conversion(*kinds)
    _require_replaceable(target_path, source_address, overwrite)
    options = ConvertOptions(_spec(spec), agent, name)
    run = _export if kinds[0] == EXPERT_BUFFER else _import
    destination = aside(target_path, overwrite=overwrite)
    operation = Operation(
        "convert", {"source": source_address, "from": kinds[0], "to": kinds[1]}, target_path
    )
    with observed(operation, observers) as observer:
        output = run(source_address, destination, kinds, options, strict, observer)
        observer.result = output = output.model_copy(update={"path": str(target_path)})
    return output


def _export(
    source: str,
    destination: AbstractContextManager[Path],
    kinds: tuple[str, str],
    options: ConvertOptions,
    strict: bool,
    observer: Observer,
) -> ConvertOutput:
    buffer, target_format = ExpertBuffer.open(source), FORMATS[kinds[1]]
    not_held = (
        *unsupported_arrays(buffer.names, target_format.cannot_hold),
        *_losses_of_other_agents(buffer, target_format, options),
    )
    _require_lossless(not_held, strict, target_format.title)
    with destination as draft:
        notes = target_format.write(buffer, draft, options, observer)
    not_held_names = {item.array for item in not_held}
    warning = final_value_warning(buffer.manifest)
    if warning is not None and "final/value" not in not_held_names:
        notes = [*notes, warning]
    notes = [*notes, *_inactive_agent_notes(buffer, options)]
    return ConvertOutput(
        id=buffer.id,
        path="",
        source_kind=kinds[0],
        target_kind=kinds[1],
        episodes=buffer.n_episodes,
        steps=buffer.n_steps,
        kept=tuple(name for name in buffer.names if name not in not_held_names),
        not_held=not_held,
        notes=tuple(notes),
    )


def _import(
    source: str,
    destination: AbstractContextManager[Path],
    kinds: tuple[str, str],
    options: ConvertOptions,
    strict: bool,
    observer: Observer,
) -> ConvertOutput:
    read = FORMATS[kinds[0]].read
    if read is None:
        msg = f"{kinds[0]} is written, not read: convert from {', '.join(_readable_formats())}"
        raise UsageError(msg)
    if options.agent is not None:
        msg = "one agent can be chosen in an export alone, and this is an import"
        raise UsageError(msg, Remedy("leave out", agent=...))
    with read(Path(source).expanduser(), options) as imported:
        _require_lossless(imported.not_held, strict, "the expert buffer")
        with destination as draft:
            manifest, notes = expert_buffer.write_imported(imported, draft, source, observer)
    return ConvertOutput(
        id=manifest.id,
        path="",
        source_kind=kinds[0],
        target_kind=kinds[1],
        episodes=manifest.statistics.episodes,
        steps=manifest.statistics.steps,
        kept=tuple(manifest.arrays),
        not_held=imported.not_held,
        notes=(*imported.notes, *notes),
    )


def _inactive_agent_notes(buffer: ExpertBuffer, options: ConvertOptions) -> Iterator[str]:
    """Yield notes on steps in which an agent does not act, though the target has an action."""
    for agent, counts in zip(
        buffer.spec.agents, buffer.manifest.statistics.action_counts, strict=True
    ):
        idle = buffer.n_steps - sum(counts)
        if idle and options.agent in (None, agent):
            yield (
                f"{agent} is gone or waits in {idle:,} of {buffer.n_steps:,} steps, in which the "
                "action that stands there is none: leave them out when you learn from it"
            )


def _losses_of_other_agents(
    buffer: ExpertBuffer, target_format: Format, options: ConvertOptions
) -> list[NotHeld]:
    """Return the losses of exporting one agent alone."""
    if options.spec is not None or options.name is not None:
        msg = "an environment and a name describe what is imported, and this is an export"
        raise UsageError(msg, Remedy("leave out", spec=..., name=...))
    if options.agent is None:
        return []
    if not target_format.by_agent:
        msg = f"{target_format.title} holds all agents"
        raise UsageError(msg, Remedy("leave out", agent=...))
    others = [agent for agent in buffer.spec.agents if agent != options.agent]
    why = f"only {options.agent} was asked for"
    return [NotHeld(array=f"agent {agent}", why=why) for agent in others]


def _require_lossless(not_held: Iterable[NotHeld], strict: bool, title: str) -> None:
    names = [item.array for item in not_held]
    if strict and names:
        msg = f"{title} cannot hold {', '.join(names)}"
        raise UsageError(msg, Remedy("choose another format"), Remedy("leave out", strict=...))


def _require_replaceable(target: Path, source: str, overwrite: bool) -> None:
    """Raise unless ``target`` is free, or a dataset that may be replaced."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    if not overwrite:
        remedies = Remedy("choose another path"), Remedy("give", overwrite=True)
        msg = f"{str(target)!r} exists"
        raise StorageError(msg, *remedies)
    if Path(source).expanduser().resolve() == target.resolve():
        msg = f"{str(target)!r} is the source itself: choose another path"
        raise UsageError(msg)
    is_dataset = (target / layout.JOURNAL).exists() or holds_dataset(target)
    if not is_dataset:
        msg = f"{str(target)!r} holds something else than a dataset: choose another path"
        raise StorageError(msg)


def _spec(given: EnvironmentSpec | str | Path | None) -> EnvironmentSpec | None:
    if given is None or isinstance(given, EnvironmentSpec):
        return given
    try:
        return EnvironmentSpec.model_validate_json(Path(given).read_bytes())
    except OSError as error:
        msg = f"the description {str(given)!r} cannot be read: {error.strerror}; check the path"
        raise UsageError(msg) from None
    except ValidationError as error:
        raise UsageError(explain(error, f"the description {str(given)!r}")) from None


def _readable_formats() -> list[str]:
    return [kind for kind, one_format in FORMATS.items() if one_format.read is not None]


def _unsupported_conversion(source: str, target: str) -> UsageError:
    if source == EXPERT_BUFFER:
        other = Remedy("give", f"as one of {', '.join(FORMATS)}", to=...)
        return UsageError("both are expert buffers", other, Remedy("copy it"))
    return UsageError(
        f"{source} cannot become {target} in one step: convert it to an expert buffer (.zarr) first"
    )
