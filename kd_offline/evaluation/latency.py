"""``bench latency``: time single decisions, with all engines interleaved in one run.

All engines take turns in short bursts, in a new order each round, so that other load on the machine
affects them alike. The first steps of a burst are not counted (warm-up). There is one thread, and
the garbage collector is off. Every step is timed on its own and the histogram is kept, because
deadlines depend on the tail. One network of each shape is timed, of the expert and of the students.
Energy is measured where the machine has a meter.
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
    EngineSettings,
    LatencyTarget,
    Nanoseconds,
    Sampler,
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
from kd_offline.runs.complete import complete_run
from kd_offline.runs.folder import digests
from kd_offline.runs.provenance import provenance
from kd_offline.schemas.hardware import Energy, HardwareProfile, MeasuredEnergy, UnavailableEnergy
from kd_offline.schemas.latency import EngineLatency, LatencyReport, Unavailable
from kd_offline.tracking.base import Observer, Operation, observed

if TYPE_CHECKING:
    from kd_offline.experts.protocol import Expert
    from kd_offline.exports.network import AgentNetwork
    from kd_offline.runs.complete import CompleteRun
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
        Keys of :data:`~kd_offline.evaluation.engines.ENGINES`; those that cannot run here are
        listed with the reason.
    batches : sequence of int
        Batch sizes of a step.
    rounds, steps : int
        Bursts of each engine, and timed steps of a burst.
    seed : int
        Of the observations and of the order of engines.
    expert, expert_recipe, opponents : optional
        As :func:`~kd_offline.evaluation.evaluate.evaluate` takes them. An expert that cannot be
        loaded is listed as unavailable.
    profiles : sequence of str or path
        Devices for which latency and energy are predicted, beside the measurements.
    energy : bool
        Also measure energy, where this machine has a meter.
    observers : sequence of Observer
        They receive the number of finished rounds.

    Raises
    ------
    UsageError, UnknownNameError, CheckpointError
        The run cannot be used, or there is no such engine or profile.
    """
    started = time.perf_counter()
    plan = Plan(tuple(engines), tuple(batches), rounds, steps, seed)
    devices = [hardware.load(profile) for profile in profiles]
    complete = complete_run(run)
    targets, unavailable_targets = latency_targets(
        complete, expert=expert, expert_recipe=expert_recipe, opponents=opponents
    )
    operation = Operation("bench latency", asdict(plan), complete.path)
    with (
        observed(operation, observers) as observer,
        temporary_folder() as root,
        computing_with(1),
    ):
        samplers, unavailable_engines = _samplers(targets, plan, root)
        times_by_key = interleaved({key: s for key, (_, s) in samplers.items()}, plan, observer)
        joules = _measure_energies({key: s for key, (_, s) in samplers.items()}, asked=energy)
        timer_ns = float(np.median(timed(lambda _: None)(2000)))
    rows = [
        _row(samplers[key][0], key, times, joules[key], devices)
        for key, times in times_by_key.items()
    ]
    command = _command(run, plan, expert, expert_recipe, opponents, profiles, energy=energy)
    first, students = next(iter(digests(complete.manifest).items()))
    same_code = all(subject.network is not None for subject in targets)
    report = _report(
        complete.path,
        plan,
        timer_ns,
        _with_speedups(rows, alike=same_code),
        (*unavailable_targets, *unavailable_engines),
    )
    elapsed = round(time.perf_counter() - started, 3)
    update = {"command": command, "seconds": elapsed, "students": {first: students}}
    report = report.model_copy(update=update)
    complete.folder.write_latency(report)
    return report


_Key = tuple[str, str, str, int]  # who, first agent, engine, batch


def _samplers(
    targets: Sequence[LatencyTarget], plan: Plan, root: Path
) -> tuple[dict[_Key, tuple[LatencyTarget, Sampler]], list[Unavailable]]:
    """Return a sampler for every engine and target, and the engines that cannot run."""
    samplers: dict[_Key, tuple[LatencyTarget, Sampler]] = {}
    unavailable: dict[tuple[str, str], Unavailable] = {}
    for batch in plan.batches:
        for target in targets:
            # Expert and student of one agent have the same C symbol, hence a folder for each.
            folder = root / target.who
            make_folder(folder)
            for name in plan.engines:
                try:
                    step_sampler = sampler(name, target, EngineSettings(batch, folder, plan.seed))
                except KdOfflineError as error:
                    entry = Unavailable(engine=name, who=target.who, reason=error.facts)
                    unavailable.setdefault((name, target.who), entry)
                else:
                    samplers[target.who, target.agents[0], name, batch] = target, step_sampler
    return samplers, list(unavailable.values())


def _measure_energies(samplers: Mapping[Key, Sampler], *, asked: bool) -> dict[Key, Energy]:
    if not asked:
        return dict.fromkeys(samplers, NOT_ASKED)
    try:
        energy_meter = meter()
    except KdOfflineError as error:
        energy_meter = UnavailableEnergy(reason=error.facts)
    if isinstance(energy_meter, UnavailableEnergy):
        return dict.fromkeys(samplers, energy_meter)
    return {name: energy_meter(sample, WINDOW_SECONDS) for name, sample in samplers.items()}


def _row(
    target: LatencyTarget,
    key: _Key,
    times: Nanoseconds,
    energy: Energy,
    devices: Sequence[HardwareProfile],
) -> EngineLatency:
    engine, batch = key[2], key[3]
    microseconds = times / 1e3
    p50, p95, p99 = np.percentile(microseconds, [50, 95, 99])
    sparse = target.contract is not None and target.contract.zeros > 0
    demand = Demand(target.macs, target.parameter_bytes, target.ram_bytes, sparse=sparse)
    # A device that was not calibrated with an engine is predicted in C alone.
    known_devices = [d for d in devices if batch == 1 and (engine == "c" or engine in d.engines)]
    return EngineLatency(
        who=target.who,
        engine=engine,
        agents=target.agents,
        batch=batch,
        samples=len(times),
        p50_us=p50,
        p95_us=p95,
        p99_us=p99,
        max_us=microseconds.max(),
        min_us=microseconds.min(),
        mean_us=microseconds.mean(),
        histogram=histogram(times),
        macs=target.macs,
        parameter_bytes=target.parameter_bytes,
        energy=energy,
        predictions=tuple(predict(device, demand, engine) for device in known_devices),
    )


def _with_speedups(rows: Sequence[EngineLatency], *, alike: bool) -> tuple[EngineLatency, ...]:
    """Return the rows with the speed-up of each student over its expert, and of each engine.

    A student is compared with its expert in the same engine, where one code runs both (``alike``).
    An engine is compared with PyTorch, for the same network.
    """
    times: dict[_Key, float] = {
        (row.who, agent, row.engine, row.batch): row.p50_us for row in rows for agent in row.agents
    }

    def quotient(row: EngineLatency, policy: str, engine: str) -> float | None:
        other = times.get((policy, row.agents[0], engine, row.batch))
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
    origin = provenance()
    return LatencyReport(
        run=path.resolve().name,
        machine=origin.machine,
        packages={k: v for k, v in origin.packages.items() if k in ("numpy", "torch")},
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
"""Duration of one measurement: RAPL updates in milliseconds, Jetson's rails ten times a second."""

_BURST = 64  # steps between two looks at the elapsed time
NOT_ASKED = UnavailableEnergy(reason="not measured: energy was not asked for")

Meter = Callable[[Sampler, float], MeasuredEnergy | UnavailableEnergy]


def meter() -> Meter | UnavailableEnergy:
    """Return a function that measures the energy of a step, or the reason why there is none.

    Raises
    ------
    MissingExtraError
        zeus is not installed.
    """
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError as error:
        if getattr(error, "name", "") not in ("zeus", "zeus.monitor"):
            return _meter_failure(error)
        raise MissingExtraError(
            library="zeus", extra="energy", purpose="measuring energy"
        ) from None
    except Exception as error:  # the libraries for GPUs that it asks fail in ways of their own
        return _meter_failure(error)
    try:
        # Our steps run on the processor; a GPU would only be waited for.
        monitor = ZeusMonitor(gpu_indices=[])
    except Exception as error:
        return _meter_failure(error)
    return lambda sample, seconds: _measure_energy(monitor, sample, seconds)


def _measure_energy(
    monitor: Any, sample: Sampler, seconds: float
) -> MeasuredEnergy | UnavailableEnergy:
    """Run steps for ``seconds`` between two readings of the meter."""
    steps, nanoseconds = 0, 0
    monitor.begin_window("kd-offline", sync_execution=False)
    while nanoseconds < 1e9 * seconds:
        times = sample(_BURST)
        steps, nanoseconds = steps + len(times), nanoseconds + int(times.sum())
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
    """Return the processor's energy in a window, and the parts that the meter covers."""
    packages = getattr(window, "cpu_energy", None) or {}
    if packages:
        return sum(packages.values()), tuple(f"processor package {k}" for k in packages)
    millijoules = getattr(getattr(window, "soc_energy", None), "cpu_energy_mj", None)
    return (0.0, ()) if millijoules is None else (millijoules / 1e3, ("processor rail",))


def _meter_failure(error: Exception) -> UnavailableEnergy:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return UnavailableEnergy(reason=f"zeus cannot be used here: {type(error).__name__}: {reason}")


def latency_targets(
    run: CompleteRun,
    *,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    opponents: Sequence[str] = (),
) -> tuple[list[LatencyTarget], list[Unavailable]]:
    """Return the networks of a run to time, and why the expert's are missing if they are.

    Raises
    ------
    UsageError, CheckpointError
        An expert that was given cannot be used.
    """
    student = run.team()
    spec = student.card.environment
    try:
        expert_policy = recorded_expert(run.manifest, expert, expert_recipe, spec, opponents)
        expert_networks = expert_targets(expert_policy, spec)
    except KdOfflineError as error:
        if expert is not None:
            raise
        missing = [Unavailable(engine="torch", who="expert", reason=error.facts)]
        return student_targets(student), missing
    return [*expert_networks, *student_targets(student)], []


def student_targets(student: StudentPolicy) -> list[LatencyTarget]:
    """Return one exported network for each shape of a team."""
    from kd_offline.exports.compact import compact

    spec = student.card.environment
    return _exported_targets("student", compact(student), student_shapes(student), spec)


def expert_targets(expert: Expert, spec: EnvironmentSpec) -> list[LatencyTarget]:
    """Return one network for each shape of an expert, in the form in which students are exported.

    Networks of another library, whose layers have no exported form, are timed by their own modules.

    Raises
    ------
    UsageError
        It is a policy whose networks are not ours to run.
    """
    from kd_offline.exports.compact import compact_expert

    shapes = expert.actor_shapes()
    if expert.team is not None:
        return _exported_targets("expert", compact_expert(expert), shapes, spec)
    if not expert.modules:
        msg = (
            f"expert {expert.reference!r} runs in its own library, so a decision of it is not "
            "timed here: time it there"
        )
        raise UsageError(msg)
    actors, costs = expert.modules, [shape.cost() for shape in shapes]
    return [
        LatencyTarget(
            who="expert",
            agents=tuple(spec.agents[i] for i in agent_indices),
            inputs=actors[agent_indices[0]].inputs,
            actions=spec.action_counts[agent_indices[0]],
            macs=costs[agent_indices[0]].macs,
            parameter_bytes=4 * costs[agent_indices[0]].parameters,
            actor=actors[agent_indices[0]],
        )
        for agent_indices in _group_equal(costs)
    ]


def _exported_targets(
    who: Literal["expert", "student"],
    networks: Sequence[AgentNetwork],
    shapes: Sequence[Shape],
    spec: EnvironmentSpec,
) -> list[LatencyTarget]:
    from kd_offline.exports.contract import contracts

    agents = contracts(networks, spec)
    return [
        LatencyTarget(
            who=who,
            agents=tuple(spec.agents[i] for i in agent_indices),
            inputs=agents[agent_indices[0]].inputs,
            actions=networks[agent_indices[0]].actions,
            macs=networks[agent_indices[0]].macs,
            parameter_bytes=networks[agent_indices[0]].parameter_bytes,
            ram_bytes=_ram(shapes[agent_indices[0]]),
            network=networks[agent_indices[0]],
            contract=agents[agent_indices[0]],
        )
        for agent_indices in _group_equal(shapes)
    ]


def _ram(shape: Shape) -> int | None:
    """Return the bytes of the exported C's buffers, where they are known."""
    memory = shape.memory()
    return None if memory is None else memory.ram


def _group_equal(keys: Iterable[object]) -> list[list[int]]:
    """Return the indices of equal (hashable) keys in groups, in the order of first appearance."""
    groups: dict[object, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())
