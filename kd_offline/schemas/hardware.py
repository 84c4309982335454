"""Models of hardware profiles and of energies, with the source of every number."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kd_offline.schemas.environment import Strict

Origin = Literal["datasheet", "measured", "derived", "assumed"]
Date = Annotated[str, Field(pattern=r"^\d{4}(-\d{2}){0,2}$")]


class Figure(Strict):
    """One number of a profile, with its source."""

    value: float = Field(gt=0)
    unit: str
    source: str = Field(min_length=8, description="document, page or command that says so")
    kind: Origin
    date: Date = Field(description="of the source, or when it was read or measured")
    error: float | None = Field(
        default=None, ge=0, description="largest relative error of the fit, where it was fitted"
    )


def _of(unit: str) -> AfterValidator:
    def check(figure: Figure) -> Figure:
        if figure.unit != unit:
            msg = f"the unit must be {unit}, not {figure.unit}"
            raise ValueError(msg)
        return figure

    return AfterValidator(check)


Count = Annotated[Figure, _of("1")]
Hertz = Annotated[Figure, _of("Hz")]
FlopsPerSecond = Annotated[Figure, _of("FLOP/s")]
OperationsPerSecond = Annotated[Figure, _of("op/s")]
Bytes = Annotated[Figure, _of("B")]
BytesPerSecond = Annotated[Figure, _of("B/s")]
Watts = Annotated[Figure, _of("W")]
Joules = Annotated[Figure, _of("J")]
Seconds = Annotated[Figure, _of("s")]
Instructions = Annotated[Figure, _of("instructions")]
InstructionsPerMac = Annotated[Figure, _of("instructions/MAC")]
Cycles = Annotated[Figure, _of("cycles/instruction")]


class EngineFigures(Strict):
    """How one engine (torch, onnx, c, numpy) runs small networks on a device.

    Either an effective speed with the overhead of a call, or instructions of a known speed.
    """

    effective_flops: FlopsPerSecond | None = None
    overhead: Seconds | None = Field(default=None, description="of one call, however small")
    instructions_per_step: Instructions | None = Field(
        default=None, description="of one call, however small"
    )
    instructions_per_mac: InstructionsPerMac | None = None
    cycles_per_instruction: Cycles | None = None
    code: Bytes | None = Field(default=None, description="flash beside the tables of the weights")


class HardwareProfile(Strict):
    """A device. Speeds are of one core unless the name says otherwise."""

    kind: Literal["kd-offline hardware profile"] = "kd-offline hardware profile"
    version: tuple[int, int] = (1, 0)
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    core: str = Field(description="processor in words")
    notes: tuple[str, ...] = Field(default=(), description="what the figures leave out")
    clock: Hertz | None = None
    cores: Count | None = None
    core_peak_flops: FlopsPerSecond | None = Field(
        default=None, description="float32, of one core, never reached by small networks"
    )
    accelerator_peak_flops: FlopsPerSecond | None = Field(default=None, description="float32")
    peak_int8: OperationsPerSecond | None = Field(default=None, description="of the whole device")
    cache: Bytes | None = Field(
        default=None, description="that a core has for itself; parameters in it cost no traffic"
    )
    memory_bandwidth: BytesPerSecond | None = None
    ram: Bytes | None = None
    flash: Bytes | None = None
    idle_power: Watts | None = None
    active_power: Watts | None = Field(default=None, description="while a core computes")
    energy_per_flop: Joules | None = None
    energy_per_byte: Joules | None = None
    engines: dict[str, EngineFigures] = Field(default_factory=dict)

    def figures(self) -> dict[str, Figure]:
        """Return every figure that is there, by its path, such as ``engines.c.overhead``."""
        found = {k: v for k, v in self if isinstance(v, Figure)}
        for engine, parts in self.engines.items():
            found |= {f"engines.{engine}.{k}": v for k, v in parts if isinstance(v, Figure)}
        return found


class MeasuredEnergy(Strict):
    """Energy that a meter of this machine measured."""

    kind: Literal["measured"] = "measured"
    microjoules: float = Field(ge=0, description="of one step")
    meter: str
    parts: tuple[str, ...] = Field(description="what the meter covers, such as cpu 0")
    seconds: float = Field(gt=0, description="length of the window")
    steps: int = Field(gt=0, description="in the window")


class ModelledEnergy(Strict):
    """Energy that was computed from a profile, without a meter."""

    kind: Literal["modelled"] = "modelled"
    microjoules: float = Field(ge=0, description="of one step")
    profile: str
    formula: str
    figures: tuple[str, ...] = Field(description="of the profile that were used, with their kind")


class UnavailableEnergy(Strict):
    """The reason why there is no energy."""

    kind: Literal["unavailable"] = "unavailable"
    reason: str


Energy = Annotated[MeasuredEnergy | ModelledEnergy | UnavailableEnergy, Field(discriminator="kind")]


class Prediction(Strict):
    """Latency and energy of one step that the model of a device predicts; never a measurement."""

    kind: Literal["modelled"] = "modelled"
    profile: str
    engine: str
    latency_us: float | None = Field(default=None, ge=0)
    basis: Literal["calibrated", "instruction count", "peak bound"] | None = Field(
        default=None,
        description="calibrated: fitted on a device; instruction count: cycles that a core needs "
        "for so many instructions; peak bound: no step can be faster",
    )
    figures: tuple[str, ...] = Field(default=(), description="used for the latency")
    energy: Energy
    missing: tuple[str, ...] = Field(default=(), description="figures that the profile lacks")
    fits: bool | None = Field(
        default=None,
        description="tables, code where it is known, and activations fit its flash and RAM",
    )
