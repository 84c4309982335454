"""``export``: write the students of a run as files that run without kd-offline, and check them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import kd_offline
from kd_offline.datasets import ExpertBuffer
from kd_offline.errors import Remedy, StorageError, UnknownNameError, UsageError
from kd_offline.exports import c_source, onnx_graph, parity_check, tensors
from kd_offline.exports.c_library import measure_on_cores
from kd_offline.exports.engines import ENGINES, MANIFEST, team
from kd_offline.exports.prepared_export import PreparedExport, prepare_export
from kd_offline.exports.vectors import vectors
from kd_offline.files import aside, make_folder, require_folder
from kd_offline.runs.complete import complete_run
from kd_offline.schemas.export import (
    REFUSAL,
    WAITING,
    Comparison,
    Core,
    ExportManifest,
    FileFact,
    Format,
    Gate,
    Precision,
)
from kd_offline.schemas.student import StudentCard
from kd_offline.sealed_json import write_document
from kd_offline.students.families import border, offered, require_offer
from kd_offline.tracking.base import Observer, Operation, counting, observed

FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LEAST_AGREEMENT: dict[Precision, float] = {"fp32": 1.0, "int8": 0.95}
"""Share of the student's recorded actions that a precision has to keep."""

SELF_TEST_STEPS = 50
"""Whole recorded episodes go into the self-test of the C export until it has this many steps."""


def export(
    run: str | Path,
    output: str | Path | None = None,
    *,
    to: str | Sequence[str] = "all",
    precision: str = "fp32",
    seed: int | None = None,
    dataset: str | Path | ExpertBuffer | None = None,
    episodes: int = 400,
    least_agreement: float | None = None,
    microcontrollers: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> ExportManifest:
    """Write the students of a run in formats for small machines.

    Every format has to repeat the student on whole recorded episodes, held-out ones where the
    dataset has any, before anything is put in its place.

    Parameters
    ----------
    run : path
        A complete run folder.
    output : path, optional
        Folder to write. Default: ``export`` in the run, ``export-int8`` for int8.
    to : str or sequence of str
        ``onnx``, ``c``, ``torch`` or ``all``.
    precision : str
        ``fp32``, or ``int8`` for weights of eight bits with a scale for each row.
    seed : int, optional
        Distillation seed of the team. Default: the run's first.
    dataset : path or ExpertBuffer, optional
        Where the run's dataset is, if not where the run says.
    episodes : int
        Recorded episodes to replay, or all where there are fewer.
    least_agreement : float, optional
        Share of recorded actions in which int8 must agree with the trained student; default 0.95.
        At fp32 all must.
    microcontrollers : bool
        Also build the C for two Cortex-M cores, run it in an emulator and keep what it costs.
    overwrite : bool
        Replace an export that is there.
    observers : sequence of Observer
        They receive the number of formats that are written and checked.

    Raises
    ------
    ParityError
        A format, or the precision, does not repeat the student.
    UsageError, CheckpointError, MismatchError, StorageError
        The students' family declines a format, the run was altered or is not complete, its dataset
        is not there, a tool is missing, or the folder is in use.
    """
    formats, chosen = _formats(to), _precision(precision)
    if episodes < 1:
        msg = f"{episodes} recorded episodes compare nothing: give 1 or more"
        raise UsageError(msg)
    if microcontrollers and "c" not in formats:
        msg = f"microcontrollers run C, and the export is to hold {', '.join(formats)} alone"
        without = Remedy("leave out", microcontrollers=...)
        raise UsageError(msg, Remedy("export with", to="c"), without)
    complete = complete_run(run)
    formats = _offered(formats, to, complete.students.card, chosen)
    target = place(run, output, chosen)
    _check_free(target, overwrite=overwrite)
    least = LEAST_AGREEMENT[chosen] if least_agreement is None else least_agreement
    prepared = prepare_export(
        complete, chosen, seed=seed, dataset=dataset, episodes=episodes, least_agreement=least
    )
    asked = {"run": str(run), "formats": list(formats), "precision": chosen}
    with (
        observed(Operation("export", asked, target), observers) as observer,
        aside(target, overwrite=overwrite) as beside,
    ):
        engines: dict[str, Comparison] = {}
        tick = counting(observer, len(formats), "formats")
        for kind in formats:
            make_folder(beside / kind)
            with border(prepared.student.card.architecture.family)(f"the {kind} export"):
                _WRITERS[kind](beside / kind, prepared)
            engines |= _checked(beside, kind, prepared)
            tick()
        cores = measure_on_cores(beside / "c") if microcontrollers else ()
        manifest = _manifest(prepared, formats, engines, least, cores, _files(beside))
        write_document(beside / MANIFEST, manifest)
    return manifest


def place(run: str | Path, output: str | Path | None, precision: str) -> Path:
    """Return the folder that an export goes to."""
    if output is not None:
        return Path(output)
    return Path(run) / ("export" if precision == "fp32" else f"export-{precision}")


def _formats(to: str | Sequence[str]) -> tuple[Format, ...]:
    wanted = [to] if isinstance(to, str) else list(to)
    for name in wanted:
        if name not in (*FORMATS, "all"):
            raise UnknownNameError(what="format", got=name, allowed=(*FORMATS, "all"))
    return tuple(name for name in FORMATS if name in wanted or "all" in wanted)


def _offered(
    formats: tuple[Format, ...], to: str | Sequence[str], card: StudentCard, precision: Precision
) -> tuple[Format, ...]:
    """Return the formats that the students' family offers; refuse those that were named."""
    if precision == "int8":
        require_offer(card.architecture, "int8")
    if "all" not in ([to] if isinstance(to, str) else to):
        require_offer(card.architecture, *formats)
    offers = offered(card.architecture, *formats)
    return tuple(name for name in formats if name in offers)


def _precision(name: str) -> Precision:
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise UnknownNameError(what="precision", got=name, allowed=PRECISIONS)


def _check_free(target: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is there, unless it is an export and may be."""
    if target.is_symlink():
        require_folder(target)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MANIFEST).is_file():
        msg = f"{target} exists and is not an export: remove it yourself or give another path"
        raise StorageError(msg)
    if not overwrite:
        msg = f"{target} already exists"
        other = Remedy("give another path with", output=...)
        raise StorageError(msg, other, Remedy("pass", overwrite=True))


def _write_onnx(folder: Path, prepared: PreparedExport) -> None:
    for network, agent in zip(prepared.networks, prepared.agents, strict=True):
        onnx_graph.write(folder / f"{agent.symbol}.onnx", network, prepared.facts_of(agent))


def _write_c(folder: Path, prepared: PreparedExport) -> None:
    few = prepared.episodes.first(SELF_TEST_STEPS)
    recorded = vectors(prepared.reference, prepared.expected[: len(few.seeds), : few.longest], few)
    title = f"{prepared.precision} student for {prepared.facts['environment']} under the mask "
    title += prepared.facts["mask"]
    c_source.write(
        folder, prepared.networks, prepared.agents, recorded, parity_check.TOLERANCE, title
    )


def _write_torch(folder: Path, prepared: PreparedExport) -> None:
    tensors.write(folder, prepared.networks, prepared.agents, prepared.facts)


_WRITERS: dict[Format, Callable[[Path, PreparedExport], None]] = {
    "onnx": _write_onnx,
    "c": _write_c,
    "torch": _write_torch,
}


def _checked(folder: Path, kind: Format, prepared: PreparedExport) -> dict[str, Comparison]:
    """Replay what was written with every engine that reads it; refuse what differs."""
    comparisons = {}
    for engine, (reads, open_steps) in ENGINES.items():
        if reads == kind:
            steps = open_steps(folder, prepared.agents)
            parity_check.require_refusals(engine, prepared.agents, steps)
            logits = parity_check.replay(
                team(prepared.agents, steps, prepared.student.card.random_k), prepared.episodes
            )
            comparisons[engine] = parity_check.compare(logits, prepared.expected, prepared.episodes)
            parity_check.require_parity(engine, comparisons[engine])
    return comparisons


def _files(folder: Path) -> dict[str, FileFact]:
    facts = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            facts[file.relative_to(folder).as_posix()] = FileFact(sha256=digest, bytes=len(content))
    return facts


def _manifest(
    prepared: PreparedExport,
    formats: tuple[Format, ...],
    engines: dict[str, Comparison],
    least: float,
    cores: tuple[Core, ...],
    files: dict[str, FileFact],
) -> ExportManifest:
    card = prepared.student.card
    return ExportManifest(
        formats=formats,
        precision=prepared.precision,
        environment=card.environment.id,
        mask=card.mask,
        random_k=card.random_k,
        method=card.method,
        seed=prepared.student.seed,
        students=prepared.students,
        dataset=card.dataset,
        refusal=REFUSAL,
        waiting=WAITING,
        agents=prepared.agents,
        gate=Gate(
            dataset=prepared.episodes.dataset,
            part=prepared.episodes.part,
            episodes=len(prepared.episodes.seeds),
            steps=prepared.episodes.steps,
            tolerance=parity_check.TOLERANCE,
            engines=engines,
            least_agreement=least,
            precision=prepared.cost,
        ),
        microcontrollers=cores,
        files=files,
        made_with=kd_offline.__version__,
    )
