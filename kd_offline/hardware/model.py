"""Models of latency and energy of one step of a small network on a device; pure arithmetic.

With the effective speed F, the overhead of a call t0, the memory bandwidth B and the cache C of a
profile::

    t = t0 + max(FLOPs / F, max(bytes - C, 0) / B)
    E = P_idle t + e_flop FLOPs + e_byte bytes

Every parameter is read once in a step, and parameters that fit the cache stay in it. For a
microcontroller without a calibrated F, ``t = (instructions a step + MACs x instructions a MAC) x
cycles an instruction / clock``. If that is unknown too, the peak of one core gives a lower bound of
the time. Without energies of single operations, ``E = P_active t``. A prediction states the figures
that it used and those that are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kd_offline.networks.arithmetic import FLOAT, Precision, Shape, zeros_of
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
    """The operations and memory that one step of one network needs."""

    macs: int
    parameter_bytes: int
    ram_bytes: int | None = None  # None: not known
    precision: Precision = "fp32"
    flash_bytes: int | None = None  # tables as they are stored; None: as parameter_bytes
    sparse: bool = False  # whether matrices are, whose speed is in no profile

    @classmethod
    def of(cls, shape: Shape, precision: Precision = "fp32") -> Demand:
        """Return the demand of a network of this shape."""
        memory, cost = shape.memory(precision), shape.cost()
        if memory is None:
            return cls(cost.macs, FLOAT * cost.parameters, None, precision)
        sparse = zeros_of(shape) > 0
        return cls(cost.macs, memory.parameters, memory.working, precision, memory.flash, sparse)

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate."""
        return 2 * self.macs


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Time of a step as a function of the network; built once, evaluated for many widths."""

    basis: Basis
    overhead: float  # seconds
    seconds_per_flop: float
    figures: tuple[str, ...]
    missing: tuple[str, ...]
    seconds_per_byte: float = 0.0  # of parameters beyond the cache
    cache_bytes: float = 0.0

    def seconds(self, macs: int, parameter_bytes: int) -> float:
        """Return the time of one step."""
        bytes_read = max(parameter_bytes - self.cache_bytes, 0.0)
        return self.overhead + max(
            2 * macs * self.seconds_per_flop, bytes_read * self.seconds_per_byte
        )


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """Energy of a step as a function of the network; built once, evaluated for many widths."""

    watts: float  # while the step runs
    joules_per_flop: float
    joules_per_byte: float  # of parameters
    formula: str
    figures: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def joules(self, macs: int, parameter_bytes: int, seconds: float) -> float:
        """Return the energy of one step that takes ``seconds``."""
        operations = 2 * macs * self.joules_per_flop + parameter_bytes * self.joules_per_byte
        return operations + self.watts * seconds


def latency_model(
    profile: HardwareProfile, engine: str = "c", precision: Precision = "fp32"
) -> LatencyModel | None:
    """Return the latency model of an engine on a device; None where its profile has no speed.

    For int8 the figures of ``ENGINE-int8`` are used where the profile has them.
    """
    name = _engine(profile, engine, precision)
    uses_fp32_figures = precision == "int8" and name == engine
    missing: tuple[str, ...] = (f"engines.{engine}-int8",) if uses_fp32_figures else ()
    figures, path = profile.engines.get(name, EngineFigures()), f"engines.{name}"
    if figures.effective_flops is not None:
        return _calibrated_model(profile, figures, path, missing)
    missing = (*missing, f"{path}.effective_flops", f"{path}.overhead")
    if model := _instruction_model(profile, figures, path, missing):
        return model
    peak_flops = profile.core_peak_flops
    if peak_flops is None:
        return None
    return LatencyModel(
        "peak bound", 0.0, 1 / peak_flops.value, (_named("core_peak_flops", peak_flops),), missing
    )


def _instruction_model(
    profile: HardwareProfile, engine_figures: EngineFigures, where: str, missing: tuple[str, ...]
) -> LatencyModel | None:
    """Return the model of a core with known cycles for an instruction; None where it is unknown."""
    figures = {
        f"{where}.instructions_per_mac": engine_figures.instructions_per_mac,
        f"{where}.cycles_per_instruction": engine_figures.cycles_per_instruction,
        "clock": profile.clock,
        f"{where}.instructions_per_step": engine_figures.instructions_per_step,
    }
    mac_instructions, instruction_cycles, clock, step_instructions = figures.values()
    if mac_instructions is None or instruction_cycles is None or clock is None:
        return None
    instruction_seconds = instruction_cycles.value / clock.value  # an instruction, in seconds
    overhead = 0.0 if step_instructions is None else step_instructions.value * instruction_seconds
    missing_overhead = () if step_instructions is not None else (f"{where}.instructions_per_step",)
    used = tuple(_named(path, figure) for path, figure in figures.items() if figure is not None)
    seconds_per_flop = mac_instructions.value * instruction_seconds / 2
    return LatencyModel(
        "instruction count", overhead, seconds_per_flop, used, (*missing, *missing_overhead)
    )


def _calibrated_model(
    profile: HardwareProfile, engine_figures: EngineFigures, where: str, missing: tuple[str, ...]
) -> LatencyModel:
    """Return the model with the effective speed of :func:`~kd_offline.evaluation.calibrate.fit`."""
    figures = {
        f"{where}.effective_flops": engine_figures.effective_flops,
        f"{where}.overhead": engine_figures.overhead,
        "memory_bandwidth": profile.memory_bandwidth,
        "cache": profile.cache,
    }
    values = {path: figure.value for path, figure in figures.items() if figure is not None}
    bandwidth = values.get("memory_bandwidth")
    return LatencyModel(
        basis="calibrated",
        overhead=values.get(f"{where}.overhead", 0.0),
        seconds_per_flop=1 / values[f"{where}.effective_flops"],
        figures=tuple(_named(path, f) for path, f in figures.items() if f is not None),
        missing=(*missing, *(path for path in figures if path not in values)),
        seconds_per_byte=0.0 if bandwidth is None else 1 / bandwidth,
        cache_bytes=values.get("cache", 0.0),
    )


def predict(profile: HardwareProfile, demand: Demand, engine: str = "c") -> Prediction:
    """Return predicted latency and energy of one step on a device.

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
        Its kind is always ``modelled``. A latency that the profile cannot give is None, such an
        energy is ``unavailable``, and the missing figures are named. Of networks with sparse
        matrices no latency is known: the figures of profiles are those of full ones.
    """
    model = None if demand.sparse else latency_model(profile, engine, demand.precision)
    seconds: float | None = None
    missing: tuple[str, ...] = (f"engines.{engine}.effective_flops", "core_peak_flops")
    if demand.sparse:
        missing = ("speed of sparse matrices",)
    if model is not None:
        seconds, missing = model.seconds(demand.macs, demand.parameter_bytes), model.missing
    energy, missing_for_energy = _energy(
        profile, demand, seconds, None if model is None else model.basis
    )
    return Prediction(
        profile=profile.name,
        engine=engine,
        latency_us=None if seconds is None else 1e6 * seconds,
        basis=None if model is None else model.basis,
        figures=() if model is None else model.figures,
        energy=energy,
        missing=(*missing, *missing_for_energy),
        fits=_fits(profile, demand, engine),
    )


def energy_model(profile: HardwareProfile, basis: Basis | None) -> EnergyModel | None:
    """Return the energy model of a device; None where its profile has no energies and no power.

    ``basis`` is that of its latency model; None without one.
    """
    flop, byte = profile.energy_per_flop, profile.energy_per_byte
    idle, active = profile.idle_power, profile.active_power
    bound_note = ", a lower bound as the time is one" if basis == "peak bound" else ""
    if flop is not None and byte is not None:
        used = (_named("energy_per_flop", flop), _named("energy_per_byte", byte))
        energies, formula = (flop.value, byte.value), "e_flop FLOPs + e_byte bytes"
        if idle is None or basis is None:
            return EnergyModel(0.0, *energies, formula, used, ("idle_power",))
        all_figures = (_named("idle_power", idle), *used)
        return EnergyModel(idle.value, *energies, f"P_idle t + {formula}{bound_note}", all_figures)
    if active is None or basis is None:
        return None
    power = (_named("active_power", active),)
    return EnergyModel(active.value, 0.0, 0.0, f"P_active t{bound_note}", power)


def _energy(
    profile: HardwareProfile, demand: Demand, seconds: float | None, basis: Basis | None
) -> tuple[ModelledEnergy | UnavailableEnergy, tuple[str, ...]]:
    """Return the energy of a step, and the figures that a better estimate needs."""
    model = energy_model(profile, basis)
    if model is not None:
        joules = model.joules(demand.macs, demand.parameter_bytes, seconds or 0.0)
        energy = ModelledEnergy(
            microjoules=1e6 * joules,
            profile=profile.name,
            formula=model.formula,
            figures=model.figures,
        )
        return energy, model.missing
    missing: tuple[str, ...] = ("energy_per_flop", "energy_per_byte")
    if profile.active_power is None:
        reason = f"profile {profile.name} has neither the energy of an operation nor active power"
        return UnavailableEnergy(reason=reason), (*missing, "active_power")
    reason = f"profile {profile.name} gives no time to multiply its active power with"
    return UnavailableEnergy(reason=reason), missing


def _fits(profile: HardwareProfile, demand: Demand, engine: str) -> bool | None:
    """Return whether tables, code and working memory fit; None where something is unknown."""
    storage = profile.flash or profile.ram
    if storage is None or profile.ram is None or demand.ram_bytes is None:
        return None
    stored_bytes = demand.parameter_bytes if demand.flash_bytes is None else demand.flash_bytes
    code = profile.engines.get(_engine(profile, engine, demand.precision), EngineFigures()).code
    stored_bytes += 0 if code is None else int(code.value)
    stored_in_ram = 0 if profile.flash is not None else stored_bytes
    return stored_bytes <= storage.value and stored_in_ram + demand.ram_bytes <= profile.ram.value


def _engine(profile: HardwareProfile, engine: str, precision: Precision) -> str:
    """Return the name of an engine at a precision in a profile."""
    int8_engine = f"{engine}-int8"
    return int8_engine if precision == "int8" and int8_engine in profile.engines else engine


def _named(path: str, figure: Figure) -> str:
    return f"{path} ({figure.kind})"
