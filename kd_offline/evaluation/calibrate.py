"""``doctor calibrate``: a hardware profile of this machine, fitted to what was timed on it.

Students of several widths are timed in one interleaved run, and for every engine ``t = t0 +
FLOPs / F`` is fitted to their medians by least squares of relative errors. The largest relative
error of the fit is kept with the figures: where it is large, the engine is not that simple.
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
from kd_offline.evaluation.engines import ENGINES, Bench, Sampler, Subject, sampler
from kd_offline.evaluation.timing import Plan, interleaved
from kd_offline.exports.contract import contracts
from kd_offline.exports.network import Affine, AgentNetwork, to_int8
from kd_offline.files import temporary_folder
from kd_offline.networks.arithmetic import ExportedShape
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
    """``t = overhead + flops / speed``; ``overhead`` is not below 0."""

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
    """Measure this machine and return its profile, and why engines are not in it.

    Parameters
    ----------
    name : str
        Of the profile; small letters, digits, ``-`` and ``_``.
    engines : sequence of str
        Keys of :data:`~kd_offline.evaluation.engines.ENGINES`; the C of int8 students is timed
        where C is.
    widths : sequence of int
        Hidden widths of the students, three or more.
    rounds, steps : int
        Turns of every engine and width, and steps timed in a turn.
    observers : sequence of Observer
        Told how many rounds are done.

    Raises
    ------
    UsageError
        Fewer than three widths, or a name that no profile can have.
    """
    if len(set(widths)) < 3 or min(widths) < 1 or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        msg = (
            f"cannot calibrate {name!r} with the widths {list(widths)}: give three widths or more "
            "and a name of small letters, digits, - and _"
        )
        raise UsageError(msg)
    plan = Plan(tuple(engines), rounds=rounds, steps=steps)
    asked = Operation("bench hardware", asdict(plan))
    with (
        observed(asked, observers) as observer,
        temporary_folder() as place,
        computing_with(1),
    ):
        made, lacking = _samplers(plan, sorted(set(widths)), place)
        found = interleaved(made, plan, observer)
    points: dict[str, list[tuple[int, float]]] = {}
    for (engine, macs), times in found.items():
        points.setdefault(engine, []).append((2 * macs, float(np.median(times)) / 1e9))
    fitted = {engine: fit(*zip(*rows, strict=True)) for engine, rows in points.items()}
    today, samples = date.today().isoformat(), rounds * steps
    source = f"{_COMMAND}: medians of {samples} steps of GRU students {sorted(set(widths))} wide"
    profile = _profile(name, today).model_copy(
        update={"engines": {e: _figures(f, source, today) for e, f in fitted.items()}}
    )
    return profile, lacking


def fit(flops: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Fit ``t = overhead + flops / speed`` by least squares of relative errors.

    Where that asks for a negative overhead, a line through the origin is fitted.
    """
    x, t = np.asarray(flops, float), np.asarray(seconds, float)
    design = np.stack([np.ones_like(x), x], axis=1) / t[:, None]
    (start, slope), *_ = np.linalg.lstsq(design, np.ones_like(t), rcond=None)
    if start < 0 or slope <= 0:
        ratio = x / t
        start, slope = 0.0, ratio.sum() / (ratio * ratio).sum()
    error = float(np.abs((start + slope * x) / t - 1).max())
    return Fit(float(start), float(1 / slope), error)


def student(width: int) -> AgentNetwork:
    """Return a student of random weights: two trunk layers and a GRU of one width."""
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
        gru=((affine(3 * width, width),), (affine(3 * width, width),)),
        head=affine(_ACTIONS, width),
    )


def memory_bandwidth() -> float:
    """Return bytes read and written a second while an array much larger than caches is copied."""
    source: Float32Array = np.ones(_COPY_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - started)
    return 2 * _COPY_BYTES / float(np.median(times))


def core_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """Return the bytes of the second-level cache, as Linux states it; None elsewhere."""
    for index in sorted(root.glob("index*")):
        try:
            if (index / "level").read_text().strip() == "2":
                text = (index / "size").read_text().strip()
                return int(text.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return None


def _samplers(
    plan: Plan, widths: Sequence[int], place: Path
) -> tuple[dict[tuple[str, int], Sampler], dict[str, str]]:
    """Make every engine of every width; an engine that cannot run is returned with the reason."""
    made: dict[tuple[str, int], Sampler] = {}
    lacking: dict[str, str] = {}
    for width in widths:
        whole = student(width)
        small = replace(to_int8(whole), agent=f"w{width}_int8")
        asked = [(engine, engine, whole) for engine in plan.engines]
        asked += [("c-int8", "c", small)] if "c" in plan.engines else []
        for label, engine, network in asked:
            try:
                one = sampler(engine, subject_of(network), Bench(1, place))
            except KdOfflineError as error:
                lacking.setdefault(label, " ".join(str(error).split()))
            else:
                made[label, network.macs] = one
    return made, lacking


def subject_of(network: AgentNetwork) -> Subject:
    """Return a student of :func:`student` as engines take it."""
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
    return Subject(
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
    """Return what does not depend on an engine."""
    here = machine()

    def figure(value: float, unit: str, source: str) -> Figure:
        return Figure(value=value, unit=unit, source=source, kind="measured", date=today)

    cache, told = core_cache(), f"{_COMMAND}: as the operating system states it"
    memory = here.memory_bytes
    copied = f"{_COMMAND}: copy of {_COPY_BYTES // 2**20} MiB, bytes read and written"
    return HardwareProfile(
        name=name,
        title=f"{here.processor}, {here.system}",
        core=f"1 of {here.cores} x {here.processor}, {here.architecture}",
        notes=("Every engine on one thread, one decision at a time.",),
        cores=figure(here.cores, "1", told),
        cache=None if cache is None else figure(cache, "B", told),
        memory_bandwidth=figure(memory_bandwidth(), "B/s", copied),
        ram=None if memory is None else figure(memory, "B", told),
    )


def _figures(found: Fit, source: str, today: str) -> EngineFigures:
    def figure(value: float, unit: str) -> Figure:
        return Figure(
            value=value, unit=unit, source=source, kind="measured", date=today, error=found.error
        )

    return EngineFigures(
        effective_flops=figure(found.speed, "FLOP/s"),
        overhead=figure(found.overhead, "s") if found.overhead > 0 else None,
    )
