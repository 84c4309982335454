"""``doctor calibrate``: fit a hardware profile of this machine to timed steps.

Students of several widths are timed in one interleaved run. For every engine ``t = t0 + FLOPs / F``
is fitted to their medians by least squares of relative errors. The largest relative error of the
fit is stored with the figures, so that a bad fit is visible.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_offline.errors import KdOfflineError, UsageError
from kd_offline.evaluation.engines import ENGINES, EngineSettings, LatencyTarget, Sampler, sampler
from kd_offline.evaluation.timing import Plan, interleaved
from kd_offline.exports.contract import contracts
from kd_offline.exports.network import AgentNetwork, to_int8
from kd_offline.files import temporary_folder
from kd_offline.networks.arithmetic import ExportedShape
from kd_offline.networks.deployed import Affine, GRUCell
from kd_offline.networks.threads import computing_with
from kd_offline.runs.provenance import machine
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.hardware import EngineFigures, Figure, HardwareProfile
from kd_offline.seeding import generator
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.types import Float32Array

WIDTHS = (16, 32, 64, 128, 256)
_FEATURES, _ACTIONS = 32, 8
_COPY_BYTES = 64 * 2**20
_COMMAND = "kd-offline doctor calibrate"


class Fit(NamedTuple):
    """Parameters of ``t = overhead + flops / speed``; ``overhead`` is at least 0."""

    overhead: float  # seconds
    speed: float  # FLOP/s
    error: float  # largest relative error


def calibrate(
    name: str = "this-machine",
    *,
    engines: Sequence[str] = tuple(ENGINES),
    widths: Sequence[int] = WIDTHS,
    rounds: int = 30,
    steps: int = 50,
    observers: Sequence[Observer] = (),
) -> tuple[HardwareProfile, dict[str, str]]:
    """Measure this machine; return its profile, and the reasons why engines are missing in it.

    Parameters
    ----------
    name : str
        Name of the profile; lower-case letters, digits, ``-`` and ``_``.
    engines : sequence of str
        Keys of :data:`~kd_offline.evaluation.engines.ENGINES`; int8 students are timed in C if C
        is among them.
    widths : sequence of int
        Hidden widths of the students, three or more.
    rounds, steps : int
        Turns of every engine and width, and timed steps of a turn.
    observers : sequence of Observer
        They receive the number of finished rounds.

    Raises
    ------
    UsageError
        Fewer than three widths, or an invalid name.
    """
    if len(set(widths)) < 3 or min(widths) < 1 or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        msg = (
            f"cannot calibrate {name!r} with the widths {list(widths)}: give three widths or more "
            "and a name of small letters, digits, - and _"
        )
        raise UsageError(msg)
    plan = Plan(tuple(engines), rounds=rounds, steps=steps)
    operation = Operation("bench hardware", asdict(plan))
    with (
        observed(operation, observers) as observer,
        temporary_folder() as folder,
        computing_with(1),
    ):
        samplers, unavailable = _samplers(plan, sorted(set(widths)), folder)
        times_by_key = interleaved(samplers, plan, observer)
    points: dict[str, list[tuple[int, float]]] = {}
    for (engine, macs), times in times_by_key.items():
        points.setdefault(engine, []).append((2 * macs, float(np.median(times)) / 1e9))
    fitted = {engine: fit(*zip(*rows, strict=True)) for engine, rows in points.items()}
    today, samples = date.today().isoformat(), rounds * steps
    source = f"{_COMMAND}: medians of {samples} steps of GRU students {sorted(set(widths))} wide"
    profile = _profile(name, today).model_copy(
        update={"engines": {e: _figures(line, source, today) for e, line in fitted.items()}}
    )
    return profile, unavailable


def fit(flops: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Fit ``t = overhead + flops / speed`` by least squares of relative errors.

    If the best overhead is negative, a line through the origin is fitted.
    """
    work, times = np.asarray(flops, float), np.asarray(seconds, float)
    design = np.stack([np.ones_like(work), work], axis=1) / times[:, None]
    (overhead, seconds_per_flop), *_ = np.linalg.lstsq(design, np.ones_like(times), rcond=None)
    if overhead < 0 or seconds_per_flop <= 0:
        ratio = work / times
        overhead, seconds_per_flop = 0.0, ratio.sum() / (ratio * ratio).sum()
    error = float(np.abs((overhead + seconds_per_flop * work) / times - 1).max())
    return Fit(float(overhead), float(1 / seconds_per_flop), error)


def student(width: int) -> AgentNetwork:
    """Return a student of random weights with two trunk layers and a GRU of equal widths."""
    shape = ExportedShape(_FEATURES, (width, width), width, _ACTIONS)
    rng = generator(width, "calibration")

    def affine(rows: int, columns: int) -> Affine:
        weight = rng.standard_normal((rows, columns)) / np.sqrt(columns)
        return Affine(weight.astype(np.float32), np.zeros(rows, np.float32))

    return AgentNetwork(
        agent=f"w{width}",
        seen=np.arange(_FEATURES),
        centre=np.zeros(_FEATURES, np.float32),
        scale=np.ones(_FEATURES, np.float32),
        motion=None,
        last_action=False,
        drawn=False,
        mask_input=False,
        trunk=(affine(width, shape.inputs), affine(width, width)),
        cell=GRUCell((affine(3 * width, width),), (affine(3 * width, width),)),
        head=affine(_ACTIONS, width),
    )


def memory_bandwidth() -> float:
    """Return bytes read and written a second when copying an array much larger than the caches."""
    source: Float32Array = np.ones(_COPY_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - started)
    return 2 * _COPY_BYTES / float(np.median(times))


def core_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """Return the bytes of the second-level cache as Linux states it; None elsewhere."""
    for index in sorted(root.glob("index*")):
        try:
            if (index / "level").read_text().strip() == "2":
                text = (index / "size").read_text().strip()
                return int(text.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return None


def _samplers(
    plan: Plan, widths: Sequence[int], folder: Path
) -> tuple[dict[tuple[str, int], Sampler], dict[str, str]]:
    """Return a sampler for every engine and width, and the reasons why engines are missing."""
    samplers: dict[tuple[str, int], Sampler] = {}
    unavailable: dict[str, str] = {}
    for width in widths:
        float_network = student(width)
        int8_network = replace(to_int8(float_network), agent=f"w{width}_int8")
        variants = [(engine, engine, float_network) for engine in plan.engines]
        variants += [("c-int8", "c", int8_network)] if "c" in plan.engines else []
        for label, engine, network in variants:
            try:
                step_sampler = sampler(engine, target_of(network), EngineSettings(1, folder))
            except KdOfflineError as error:
                unavailable.setdefault(label, error.facts)
            else:
                samplers[label, network.macs] = step_sampler
    return samplers, unavailable


def target_of(network: AgentNetwork) -> LatencyTarget:
    """Return a network of :func:`student` as a latency target."""
    agent = network.agent
    spec = EnvironmentSpec(
        id="calibration",
        version="1",
        agents=(agent,),
        obs_widths=(_FEATURES,),
        action_counts=(_ACTIONS,),
        action_names=(tuple(f"a{k}" for k in range(_ACTIONS)),),
        episode_limit=1,
        reward="team",
        sides={"team": (agent,)},
        state_width=_FEATURES,
        state_is_obs=True,
        blocks={agent: {"all": ((0, _FEATURES),)}},
    )
    return LatencyTarget(
        who="student",
        agents=(agent,),
        inputs=network.inputs,
        actions=network.actions,
        macs=network.macs,
        parameter_bytes=network.parameter_bytes,
        network=network,
        contract=contracts([network], spec)[0],
    )


def _profile(name: str, today: str) -> HardwareProfile:
    """Return a profile with the figures that do not depend on an engine."""
    this_machine = machine()

    def figure(value: float, unit: str, source: str) -> Figure:
        return Figure(value=value, unit=unit, source=source, kind="measured", date=today)

    cache, os_source = core_cache(), f"{_COMMAND}: as the operating system states it"
    memory = this_machine.memory_bytes
    copy_source = f"{_COMMAND}: copy of {_COPY_BYTES // 2**20} MiB, bytes read and written"
    return HardwareProfile(
        name=name,
        title=f"{this_machine.processor}, {this_machine.system}",
        core=f"1 of {this_machine.cores} x {this_machine.processor}, {this_machine.architecture}",
        notes=("Every engine on one thread, one decision at a time.",),
        cores=figure(this_machine.cores, "1", os_source),
        cache=None if cache is None else figure(cache, "B", os_source),
        memory_bandwidth=figure(memory_bandwidth(), "B/s", copy_source),
        ram=None if memory is None else figure(memory, "B", os_source),
    )


def _figures(fitted: Fit, source: str, today: str) -> EngineFigures:
    def figure(value: float, unit: str) -> Figure:
        return Figure(
            value=value, unit=unit, source=source, kind="measured", date=today, error=fitted.error
        )

    return EngineFigures(
        effective_flops=figure(fitted.speed, "FLOP/s"),
        overhead=figure(fitted.overhead, "s") if fitted.overhead > 0 else None,
    )
