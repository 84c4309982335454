"""``latency.json``: time of one decision by engine, measured in one interleaved run."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kd_offline.schemas.document import Document
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.hardware import Energy, Prediction
from kd_offline.schemas.run import Machine

Microseconds = Annotated[float, Field(ge=0)]


class Histogram(Strict):
    """Counts of samples; bin ``i`` reaches from ``edges_us[i]`` to ``edges_us[i + 1]``."""

    edges_us: tuple[float, ...] = Field(description="equally spaced in the logarithm")
    counts: tuple[int, ...]


class EngineLatency(Strict):
    """Times of one network in one engine."""

    who: Literal["expert", "student"]
    engine: str
    agents: tuple[str, ...] = Field(description="whose networks have this shape")
    batch: int = Field(gt=0, description="rows of a step")
    samples: int = Field(gt=0)
    p50_us: Microseconds
    p95_us: Microseconds
    p99_us: Microseconds
    max_us: Microseconds
    min_us: Microseconds
    mean_us: Microseconds
    histogram: Histogram
    macs: int = Field(ge=0, description="of one row")
    parameter_bytes: int = Field(ge=0)
    faster: float | None = Field(
        default=None,
        description="of a student: p50 of the expert in the same engine for the same agent, "
        "divided by this; absent where that ran other code",
    )
    engine_faster: float | None = Field(
        default=None, description="p50 of the same network in torch, divided by this"
    )
    energy: Energy = Field(description="of a step of this many rows, on this machine")
    predictions: tuple[Prediction, ...] = Field(default=(), description="of other devices, a row")


class Unavailable(Strict):
    """An engine that was requested and cannot run here."""

    engine: str
    who: Literal["expert", "student"]
    reason: str


class LatencyReport(Document):
    """The content of ``latency.json``, and the JSON output of ``bench latency``."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    kind: Literal["kd-offline latency"] = "kd-offline latency"
    version: tuple[int, int] = (1, 1)
    run: str
    students: dict[str, str] = Field(
        default_factory=dict,
        description="distillation seed -> digest of the weights that were timed",
    )
    machine: Machine
    packages: dict[str, str]
    compiler: str | None = Field(default=None, description="that made the C")
    rounds: int = Field(gt=0)
    steps_per_round: int = Field(gt=0)
    discarded_per_round: int = Field(ge=0, description="steps before those, to warm up")
    seed: int = Field(ge=0)
    threads: Literal[1] = 1
    timer_ns: float = Field(ge=0, description="median of an empty measurement, not subtracted")
    convention: str
    rows: tuple[EngineLatency, ...]
    unavailable: tuple[Unavailable, ...] = ()
    command: str
    seconds: float = Field(ge=0)
