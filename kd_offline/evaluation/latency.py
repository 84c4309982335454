"""``bench latency``: how long one decision takes, every engine in one interleaved run.

All engines take turns in short bursts, in a new order each round, so that whatever else the machine
does hits all of them alike. The first steps of a burst are run and not counted, so that caches are
warm; one thread; the garbage collector waits. Every single step is timed, and the histogram kept:
deadlines care for the tail. One network of each shape is timed, of the expert and of the students,
and energy is read where the machine has a meter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kd_offline.commands import command_text
from kd_offline.errors import KdOfflineError, MissingExtraError, UsageError
from kd_offline.evaluation.engines import (
    Bench,
    Nanoseconds,
    Sampler,
    Subject,
    compiler,
    sampler,
    timed,
)
from kd_offline.evaluation.evaluation_setup import recorded_expert, student_shapes
from kd_offline.evaluation.timing import (
    DEFAULT_ENGINES,
    Key,
    Plan,
    histogram,
    interleaved,
)
from kd_offline.files import make_folder, temporary_folder
from kd_offline.hardware import profiles as hardware
from kd_offline.hardware.model import Demand, predict
from kd_offline.networks.arithmetic import Shape
from kd_offline.networks.threads import computing_with
from kd_offline.runs.folder import digests, open_run
from kd_offline.runs.provenance import provenance
from kd_offline.runs.teams import load_teams
from kd_offline.schemas.hardware import Energy, HardwareProfile, MeasuredEnergy, UnavailableEnergy
from kd_offline.schemas.latency import EngineLatency, LatencyReport, Unavailable
from kd_offline.tracking.base import Observer, Operation, observed

if TYPE_CHECKING:
    from kd_offline.experts.protocol import Expert
    from kd_offline.exports.network import AgentNetwork
    from kd_offline.runs.folder import RunFolder
    from kd_offline.schemas.environment import EnvironmentSpec
    from kd_offline.students.policy import StudentPolicy

CONVENTION = (
    "one decision of one agent a row: input scaling, network, masked argmax, the memory fed back; "
    "expert and students through the same code of each engine; every step is timed on its own, "
    "with the timer in it"
)


def bench_latency(
    run: str | Path,
    *,
    engines: Sequence[str] = DEFAULT_ENGINES,
    batches: Sequence[int] = (1,),
    rounds: int = 50,
    steps: int = 100,
    seed: int = 0,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    opponents: Sequence[str] = (),
    profiles: Sequence[str | Path] = (),
    energy: bool = False,
    observers: Sequence[Observer] = (),
) -> LatencyReport:
    """Time single decisions of a run's expert and students, and write ``latency.json`` there.

    Parameters
    ----------
    run : path
        A complete run folder.
    engines : sequence of str
        Keys of :data:`~kd_offline.evaluation.engines.ENGINES`; what cannot run here is listed with
        the reason.
    batches : sequence of int
        Rows of a step.
    rounds, steps : int
        Bursts of each engine, and steps that are timed in a burst.
    seed : int
        Of the observations and of the order of engines.
    expert, expert_recipe, opponents : optional
        As :func:`~kd_offline.evaluation.evaluate.evaluate` takes them. An expert that is not at
        hand is listed as unavailable.
    profiles : sequence of str or path
        Devices to predict latency and energy for, beside what is measured here.
    energy : bool
        Also measure energy, where this machine has a meter.
    observers : sequence of Observer
        Told how many rounds are done.

    Raises
    ------
    UsageError, UnknownNameError, CheckpointError
        The run cannot be used, or there is no such engine or profile.
    """
    started = time.perf_counter()
    plan = Plan(tuple(engines), tuple(batches), rounds, steps, seed)
    devices = [hardware.load(profile) for profile in profiles]
    folder = open_run(run)
    who, missing = subjects(folder, expert=expert, expert_recipe=expert_recipe, opponents=opponents)
    asked = Operation("bench latency", asdict(plan), folder.path)
    with (
        observed(asked, observers) as observer,
        temporary_folder() as place,
        computing_with(1),
    ):
        made, lacking = _samplers(who, plan, place)
        found = interleaved({key: s for key, (_, s) in made.items()}, plan, observer)
        joules = _energies({key: s for key, (_, s) in made.items()}, asked=energy)
        timer = float(np.median(timed(lambda _: None)(2000)))
    rows = [_row(made[key][0], key, times, joules[key], devices) for key, times in found.items()]
    command = _command(run, plan, expert, expert_recipe, opponents, profiles, energy=energy)
    first, students = next(iter(digests(folder.manifest()).items()))
    alike = all(subject.network is not None for subject in who)
    report = _report(folder.path, plan, timer, _compared(rows, alike=alike), (*missing, *lacking))
    elapsed = round(time.perf_counter() - started, 3)
    update = {"command": command, "seconds": elapsed, "students": {first: students}}
    report = report.model_copy(update=update)
    folder.write_latency(report)
    return report


_Key = tuple[str, str, str, int]  # who, first agent, engine, batch


def _samplers(
    who: Sequence[Subject], plan: Plan, place: Path
) -> tuple[dict[_Key, tuple[Subject, Sampler]], list[Unavailable]]:
    """Make every engine of every subject; engines that cannot run are returned with the reason."""
    made: dict[_Key, tuple[Subject, Sampler]] = {}
    lacking: dict[tuple[str, str], Unavailable] = {}
    for batch in plan.batches:
        for subject in who:
            folder = place / subject.who  # an expert and a student of one agent share its symbol
            make_folder(folder)
            for name in plan.engines:
                try:
                    one = sampler(name, subject, Bench(batch, folder, plan.seed))
                except KdOfflineError as error:
                    reason = " ".join(str(error).split())
                    said = Unavailable(engine=name, who=subject.who, reason=reason)
                    lacking.setdefault((name, subject.who), said)
                else:
                    made[subject.who, subject.agents[0], name, batch] = subject, one
    return made, list(lacking.values())


def _energies(samplers: Mapping[Key, Sampler], *, asked: bool) -> dict[Key, Energy]:
    if not asked:
        return dict.fromkeys(samplers, NOT_ASKED)
    try:
        found = meter()
    except KdOfflineError as error:
        found = UnavailableEnergy(reason=" ".join(str(error).split()))
    if isinstance(found, UnavailableEnergy):
        return dict.fromkeys(samplers, found)
    return {name: found(sample, WINDOW_SECONDS) for name, sample in samplers.items()}


def _row(
    subject: Subject,
    key: _Key,
    times: Nanoseconds,
    energy: Energy,
    devices: Sequence[HardwareProfile],
) -> EngineLatency:
    engine, batch = key[2], key[3]
    microseconds = times / 1e3
    p50, p95, p99 = np.percentile(microseconds, [50, 95, 99])
    demand = Demand(subject.macs, subject.parameter_bytes, subject.ram_bytes)
    # A device that was not calibrated with an engine is predicted in C alone.
    able = [d for d in devices if batch == 1 and (engine == "c" or engine in d.engines)]
    return EngineLatency(
        who=subject.who,
        engine=engine,
        agents=subject.agents,
        batch=batch,
        samples=len(times),
        p50_us=p50,
        p95_us=p95,
        p99_us=p99,
        max_us=microseconds.max(),
        min_us=microseconds.min(),
        mean_us=microseconds.mean(),
        histogram=histogram(times),
        macs=subject.macs,
        parameter_bytes=subject.parameter_bytes,
        energy=energy,
        predictions=tuple(predict(device, demand, engine) for device in able),
    )


def _compared(rows: Sequence[EngineLatency], *, alike: bool) -> tuple[EngineLatency, ...]:
    """Tell networks from engines: how much faster each student is, and each engine.

    A student is compared with its expert in the same engine, where that runs both by the same code
    (``alike``). An engine is compared with PyTorch, of the same network.
    """
    times: dict[_Key, float] = {
        (row.who, agent, row.engine, row.batch): row.p50_us for row in rows for agent in row.agents
    }

    def quotient(row: EngineLatency, who: str, engine: str) -> float | None:
        other = times.get((who, row.agents[0], engine, row.batch))
        return None if other is None or row.p50_us == 0 else other / row.p50_us

    return tuple(
        row.model_copy(
            update={
                "faster": quotient(row, "expert", row.engine)
                if alike and row.who == "student"
                else None,
                "engine_faster": None if row.engine == "torch" else quotient(row, row.who, "torch"),
            }
        )
        for row in rows
    )


def _report(
    path: Path,
    plan: Plan,
    timer: float,
    rows: tuple[EngineLatency, ...],
    unavailable: Sequence[Unavailable],
) -> LatencyReport:
    made = provenance()
    return LatencyReport(
        run=path.resolve().name,
        machine=made.machine,
        packages={k: v for k, v in made.packages.items() if k in ("numpy", "torch")},
        compiler=compiler() if any(name.startswith("c") for name in plan.engines) else None,
        rounds=plan.rounds,
        steps_per_round=plan.steps,
        discarded_per_round=plan.discarded,
        seed=plan.seed,
        timer_ns=timer,
        convention=CONVENTION,
        rows=rows,
        unavailable=tuple(unavailable),
        command="",
        seconds=0.0,
    )


def _command(
    run: str | Path,
    plan: Plan,
    expert: str | Path | None,
    recipe: str | Path | None,
    opponents: Sequence[str],
    profiles: Sequence[str | Path],
    *,
    energy: bool,
) -> str:
    return command_text(
        *("bench", "latency", run),
        engines=None if plan.engines == DEFAULT_ENGINES else ",".join(plan.engines),
        batch=None if plan.batches == (1,) else ",".join(map(str, plan.batches)),
        rounds=plan.rounds,
        steps=plan.steps,
        seed=plan.seed,
        expert=expert,
        expert_recipe=recipe,
        opponents=list(opponents),
        device=list(profiles),
        energy=energy,
    )


WINDOW_SECONDS = 2.0
"""Of one measurement: RAPL counts in milliseconds, Jetson's rails are polled ten times a second."""

_BURST = 64
NOT_ASKED = UnavailableEnergy(reason="not measured: energy was not asked for")

Meter = Callable[[Sampler, float], MeasuredEnergy | UnavailableEnergy]


def meter() -> Meter | UnavailableEnergy:
    """Return what measures the energy of a step, or why nothing does.

    Raises
    ------
    MissingExtraError
        zeus is not installed.
    """
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError as error:
        if getattr(error, "name", "") not in ("zeus", "zeus.monitor"):
            return _broken(error)
        raise MissingExtraError(
            library="zeus", extra="energy", purpose="measuring energy"
        ) from None
    except Exception as error:  # the libraries for GPUs that it asks fail in ways of their own
        return _broken(error)
    try:
        # Our steps run on the processor; a GPU would only be waited for.
        monitor = ZeusMonitor(gpu_indices=[])
    except Exception as error:
        return _broken(error)
    return lambda sample, seconds: _measured(monitor, sample, seconds)


def _measured(monitor: Any, sample: Sampler, seconds: float) -> MeasuredEnergy | UnavailableEnergy:
    """Run steps for a while between two readings."""
    steps, spent = 0, 0
    monitor.begin_window("kd-offline", sync_execution=False)
    while spent < 1e9 * seconds:
        found = sample(_BURST)
        steps, spent = steps + len(found), spent + int(found.sum())
    window = monitor.end_window("kd-offline", sync_execution=False)
    joules, parts = _joules(window)
    if not parts or joules <= 0:
        return UnavailableEnergy(reason="zeus finds no meter on this machine")
    return MeasuredEnergy(
        microjoules=1e6 * joules / steps,
        meter="zeus",
        parts=parts,
        seconds=window.time,
        steps=steps,
    )


def _joules(window: Any) -> tuple[float, tuple[str, ...]]:
    """Return the processor's energy in a window, and which parts the meter covers."""
    packages = getattr(window, "cpu_energy", None) or {}
    if packages:
        return sum(packages.values()), tuple(f"processor package {k}" for k in packages)
    board = getattr(getattr(window, "soc_energy", None), "cpu_energy_mj", None)
    return (0.0, ()) if board is None else (board / 1e3, ("processor rail",))


def _broken(error: Exception) -> UnavailableEnergy:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return UnavailableEnergy(reason=f"zeus cannot be used here: {type(error).__name__}: {reason}")


def subjects(
    run: RunFolder,
    *,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    opponents: Sequence[str] = (),
) -> tuple[list[Subject], list[Unavailable]]:
    """Return the networks of a run, and why the expert's are not among them where they are not.

    Raises
    ------
    UsageError, CheckpointError
        The run is not complete or was altered, or an expert that was given cannot be used.
    """
    manifest = run.manifest()
    student = load_teams(run, manifest)[0]
    spec = student.card.environment
    try:
        teacher = recorded_expert(manifest, expert, expert_recipe, spec, opponents)
        found = of_expert(teacher, spec)
    except KdOfflineError as error:
        if expert is not None:
            raise
        reason = " ".join(str(error).split())
        missing = [Unavailable(engine="torch", who="expert", reason=reason)]
        return of_students(student), missing
    return [*found, *of_students(student)], []


def of_students(student: StudentPolicy) -> list[Subject]:
    """Return one exported network for each shape of a team."""
    from kd_offline.exports.compact import compact

    spec = student.card.environment
    return _exported("student", compact(student), student_shapes(student), spec)


def of_expert(expert: Expert, spec: EnvironmentSpec) -> list[Subject]:
    """Return one network for each shape of an expert, in the form in which students are exported.

    The networks of another library, which have layers that no export has, are timed as they are.

    Raises
    ------
    UsageError
        It is a policy whose networks are not ours to run.
    """
    from kd_offline.exports.compact import compact_expert

    shapes = expert.actor_shapes()
    if expert.team is not None:
        return _exported("expert", compact_expert(expert), shapes, spec)
    if not expert.modules:
        msg = (
            f"expert {expert.reference!r} runs in its own library, so a decision of it is not "
            "timed here: time it there"
        )
        raise UsageError(msg)
    actors, costs = expert.modules, [shape.cost() for shape in shapes]
    return [
        Subject(
            who="expert",
            agents=tuple(spec.agents[i] for i in same),
            inputs=actors[same[0]].inputs,
            actions=spec.action_counts[same[0]],
            macs=costs[same[0]].macs,
            parameter_bytes=4 * costs[same[0]].parameters,
            actor=actors[same[0]],
        )
        for same in _alike(costs)
    ]


def _exported(
    who: Literal["expert", "student"],
    networks: Sequence[AgentNetwork],
    shapes: Sequence[Shape],
    spec: EnvironmentSpec,
) -> list[Subject]:
    from kd_offline.exports.contract import contracts

    agents = contracts(networks, spec)
    return [
        Subject(
            who=who,
            agents=tuple(spec.agents[i] for i in same),
            inputs=agents[same[0]].inputs,
            actions=networks[same[0]].actions,
            macs=networks[same[0]].macs,
            parameter_bytes=networks[same[0]].parameter_bytes,
            ram_bytes=_ram(shapes[same[0]]),
            network=networks[same[0]],
            contract=agents[same[0]],
        )
        for same in _alike(shapes)
    ]


def _ram(shape: Shape) -> int | None:
    """Return the bytes of the exported C's buffers, where they are known."""
    memory = shape.memory()
    return None if memory is None else memory.ram


def _alike(keys: Iterable[object]) -> list[list[int]]:
    """Return indices grouped by equal keys, which can be hashed, in order of first appearance."""
    groups: dict[object, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())
