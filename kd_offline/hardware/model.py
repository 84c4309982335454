"""What a model of a device says about one step of a small network. Pure arithmetic.

With the effective speed F, the overhead of a call t0, the memory bandwidth B and the cache C of a
profile::

    t = t0 + max(FLOPs / F, max(bytes - C, 0) / B)
    E = P_idle t + e_flop FLOPs + e_byte bytes

where every parameter is read once in a step and what fits the cache stays in it. A microcontroller
has no calibrated F: there the core needs ``(instructions a step + MACs x instructions a MAC) x
cycles an instruction / clock``. Where neither is known, the peak of one core gives a time that no
step can beat. Where the energies of single operations are not known, ``E = P_active t``. What was
used, and what is missing, is part of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kd_offline.networks.arithmetic import FLOAT, Precision, Shape
from kd_offline.schemas.hardware import (
    EngineFigures,
    Figure,
    HardwareProfile,
    ModelledEnergy,
    Prediction,
    UnavailableEnergy,
)

Basis = Literal["calibrated", "instruction count", "peak bound"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What one step of one network asks of a device."""

    macs: int
    parameter_bytes: int
    ram_bytes: int | None = None  # None: not known
    precision: Precision = "fp32"
    flash_bytes: int | None = None  # tables as they are stored; None: as parameter_bytes

    @classmethod
    def of(cls, shape: Shape, precision: Precision = "fp32") -> Demand:
        """Return the demand of a network of this shape."""
        memory, cost = shape.memory(precision), shape.cost()
        if memory is None:
            return cls(cost.macs, FLOAT * cost.parameters, None, precision)
        return cls(cost.macs, memory.parameters, memory.working, precision, memory.flash)

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate."""
        return 2 * self.macs


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """How long a step takes on a device: made once, asked as often as widths are tried."""

    basis: Basis
    overhead: float  # seconds
    seconds_per_flop: float
    figures: tuple[str, ...]
    missing: tuple[str, ...]
    seconds_per_byte: float = 0.0  # of parameters beyond the cache
    cache_bytes: float = 0.0

    def seconds(self, macs: int, parameter_bytes: int) -> float:
        """Return the time of one step."""
        moved = max(parameter_bytes - self.cache_bytes, 0.0)
        return self.overhead + max(2 * macs * self.seconds_per_flop, moved * self.seconds_per_byte)


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """What a step takes on a device: made once, asked as often as widths are tried."""

    watts: float  # while the step runs
    joules_per_flop: float
    joules_per_byte: float  # of parameters
    formula: str
    figures: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def joules(self, macs: int, parameter_bytes: int, seconds: float) -> float:
        """Return the energy of one step."""
        work = 2 * macs * self.joules_per_flop + parameter_bytes * self.joules_per_byte
        return work + self.watts * seconds


def latency_model(
    profile: HardwareProfile, engine: str = "c", precision: Precision = "fp32"
) -> LatencyModel | None:
    """Return how long an engine takes on a device; None where its profile has no speed at all.

    Figures of an engine named ``ENGINE-int8`` are used for int8 where the profile has them.
    """
    name = _engine(profile, engine, precision)
    unknown = precision == "int8" and name == engine
    missing: tuple[str, ...] = (f"engines.{engine}-int8",) if unknown else ()
    parts, where = profile.engines.get(name, EngineFigures()), f"engines.{name}"
    if parts.effective_flops is not None:
        return _calibrated(profile, parts, where, missing)
    missing = (*missing, f"{where}.effective_flops", f"{where}.overhead")
    if counted := _counted(profile, parts, where, missing):
        return counted
    peak = profile.core_peak_flops
    if peak is None:
        return None
    return LatencyModel(
        "peak bound", 0.0, 1 / peak.value, (_named("core_peak_flops", peak),), missing
    )


def _counted(
    profile: HardwareProfile, parts: EngineFigures, where: str, missing: tuple[str, ...]
) -> LatencyModel | None:
    """Return the model of a core that takes so many cycles for an instruction."""
    found = {
        f"{where}.instructions_per_mac": parts.instructions_per_mac,
        f"{where}.cycles_per_instruction": parts.cycles_per_instruction,
        "clock": profile.clock,
        f"{where}.instructions_per_step": parts.instructions_per_step,
    }
    per_mac, cycles, clock, per_step = found.values()
    if per_mac is None or cycles is None or clock is None:
        return None
    second = cycles.value / clock.value  # an instruction, in seconds
    start = 0.0 if per_step is None else per_step.value * second
    lacking = () if per_step is not None else (f"{where}.instructions_per_step",)
    used = tuple(_named(path, figure) for path, figure in found.items() if figure is not None)
    speed = per_mac.value * second / 2
    return LatencyModel("instruction count", start, speed, used, (*missing, *lacking))


def _calibrated(
    profile: HardwareProfile, parts: EngineFigures, where: str, missing: tuple[str, ...]
) -> LatencyModel:
    found = {
        f"{where}.effective_flops": parts.effective_flops,
        f"{where}.overhead": parts.overhead,
        "memory_bandwidth": profile.memory_bandwidth,
        "cache": profile.cache,
    }
    value = {path: figure.value for path, figure in found.items() if figure is not None}
    bandwidth = value.get("memory_bandwidth")
    return LatencyModel(
        basis="calibrated",
        overhead=value.get(f"{where}.overhead", 0.0),
        seconds_per_flop=1 / value[f"{where}.effective_flops"],
        figures=tuple(_named(path, f) for path, f in found.items() if f is not None),
        missing=(*missing, *(path for path in found if path not in value)),
        seconds_per_byte=0.0 if bandwidth is None else 1 / bandwidth,
        cache_bytes=value.get("cache", 0.0),
    )


def predict(profile: HardwareProfile, demand: Demand, engine: str = "c") -> Prediction:
    """Return latency and energy of one step on a device, as a model of it says.

    Parameters
    ----------
    profile : HardwareProfile
    demand : Demand
        Of one decision of one agent's network.
    engine : str
        ``c``, ``numpy``, ``onnx`` or ``torch``.

    Returns
    -------
    Prediction
        Its kind is always ``modelled``; a latency or an energy that the profile cannot give is
        null or ``unavailable``, with the figures that are missing.
    """
    model = latency_model(profile, engine, demand.precision)
    seconds: float | None = None
    missing: tuple[str, ...] = (f"engines.{engine}.effective_flops", "core_peak_flops")
    if model is not None:
        seconds, missing = model.seconds(demand.macs, demand.parameter_bytes), model.missing
    energy, lacking = _energy(profile, demand, seconds, None if model is None else model.basis)
    return Prediction(
        profile=profile.name,
        engine=engine,
        latency_us=None if seconds is None else 1e6 * seconds,
        basis=None if model is None else model.basis,
        figures=() if model is None else model.figures,
        energy=energy,
        missing=(*missing, *lacking),
        fits=_fits(profile, demand, engine),
    )


def energy_model(profile: HardwareProfile, basis: Basis | None) -> EnergyModel | None:
    """Return what a step takes on a device; None where its profile has neither.

    ``basis``: that of its time, None where there is no time.
    """
    flop, byte = profile.energy_per_flop, profile.energy_per_byte
    idle, active = profile.idle_power, profile.active_power
    bound = ", a lower bound as the time is one" if basis == "peak bound" else ""
    if flop is not None and byte is not None:
        used = (_named("energy_per_flop", flop), _named("energy_per_byte", byte))
        each, formula = (flop.value, byte.value), "e_flop FLOPs + e_byte bytes"
        if idle is None or basis is None:
            return EnergyModel(0.0, *each, formula, used, ("idle_power",))
        every = (_named("idle_power", idle), *used)
        return EnergyModel(idle.value, *each, f"P_idle t + {formula}{bound}", every)
    if active is None or basis is None:
        return None
    power = (_named("active_power", active),)
    return EnergyModel(active.value, 0.0, 0.0, f"P_active t{bound}", power)


def _energy(
    profile: HardwareProfile, demand: Demand, seconds: float | None, basis: Basis | None
) -> tuple[ModelledEnergy | UnavailableEnergy, tuple[str, ...]]:
    """Return the energy of a step and the figures that a better answer would need."""
    model = energy_model(profile, basis)
    if model is not None:
        joules = model.joules(demand.macs, demand.parameter_bytes, seconds or 0.0)
        said = ModelledEnergy(
            microjoules=1e6 * joules,
            profile=profile.name,
            formula=model.formula,
            figures=model.figures,
        )
        return said, model.missing
    lacking: tuple[str, ...] = ("energy_per_flop", "energy_per_byte")
    if profile.active_power is None:
        reason = f"profile {profile.name} has neither the energy of an operation nor active power"
        return UnavailableEnergy(reason=reason), (*lacking, "active_power")
    reason = f"profile {profile.name} gives no time to multiply its active power with"
    return UnavailableEnergy(reason=reason), lacking


def _fits(profile: HardwareProfile, demand: Demand, engine: str) -> bool | None:
    """Tell whether tables, code and working memory fit; None where something is not known."""
    store = profile.flash or profile.ram
    if store is None or profile.ram is None or demand.ram_bytes is None:
        return None
    stored = demand.parameter_bytes if demand.flash_bytes is None else demand.flash_bytes
    code = profile.engines.get(_engine(profile, engine, demand.precision), EngineFigures()).code
    stored += 0 if code is None else int(code.value)
    shared = 0 if profile.flash is not None else stored
    return stored <= store.value and shared + demand.ram_bytes <= profile.ram.value


def _engine(profile: HardwareProfile, engine: str, precision: Precision) -> str:
    """Return the name under which a profile knows an engine at a precision."""
    small = f"{engine}-int8"
    return small if precision == "int8" and small in profile.engines else engine


def _named(path: str, figure: Figure) -> str:
    return f"{path} ({figure.kind})"
