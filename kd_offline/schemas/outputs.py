"""JSON output of commands, for other programs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from kd_offline.schemas.budget import Allocation
from kd_offline.schemas.dataset import Digest
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.evaluation import (
    Estimate,
    EvaluationReport,
    ExpertScore,
    ModeScore,
    RetentionScores,
    SideScore,
    WinRates,
)
from kd_offline.schemas.export import Core, ExportManifest, Format, Gate, Precision
from kd_offline.schemas.hardware import HardwareProfile
from kd_offline.schemas.run import JudgedBy, RunManifest, StudentRecord


class ErrorDetails(Strict):
    """The error of a command, with its exit code."""

    message: str = Field(description="one sentence, the same as on stderr")
    type: str = Field(description="name of the error, such as UnknownNameError")
    exit_code: int = Field(ge=1)


class ErrorOutput(Strict):
    """JSON output of a command that fails, instead of its own document."""

    error: ErrorDetails


class RecordOutput(Strict):
    """JSON output of ``record``."""

    id: Digest
    path: str
    episodes: int
    steps: int
    bytes: int = Field(description="stored size of all files, the manifest included")
    seconds: float = Field(ge=0)


class DistillOutput(Strict):
    """JSON output of ``distill``."""

    run: str
    method: str
    students: tuple[StudentRecord, ...]
    judged_by: JudgedBy | None = Field(
        default=None, description="absent where nothing was held out to judge students by"
    )
    seconds: float
    allocation: Allocation | None = Field(default=None, description="where a budget was stated")
    bytes_moved: int | None = Field(
        default=None, ge=0, description="over the network, where the dataset is not on this machine"
    )

    @classmethod
    def of(cls, manifest: RunManifest, run: str) -> DistillOutput:
        """Return the part of ``run.json`` that is the contract."""
        return cls(
            run=run,
            method=manifest.method,
            students=manifest.students,
            judged_by=manifest.judged_by,
            seconds=manifest.timing.seconds,
            allocation=manifest.allocation,
        )


class SideOutput(Strict):
    """Returns and retention of one side, the others played by the expert."""

    expert: Estimate
    student: Estimate
    random: Estimate
    ceiling: Estimate | None = None
    retention: RetentionScores


class ModeOutput(SideOutput):
    """Results of greedy or of sampled play: the sum over all sides."""

    win_rate: WinRates | None = Field(default=None, description="where the task has wins")
    sides: dict[str, SideOutput] | None = Field(
        default=None, description="present where there are several"
    )
    experts: dict[str, ExpertScore] | None = Field(
        default=None, description="of further experts by name, where several were given"
    )

    @classmethod
    def of(cls, score: ModeScore) -> ModeOutput:
        """Return the part of a score that is the contract."""
        sides = {name: SideOutput(**_kept(side)) for name, side in score.sides.items()}
        several = sides if len(sides) > 1 else None
        return cls(**_kept(score), win_rate=score.win_rate, sides=several, experts=score.experts)


def _kept(score: ModeScore | SideScore) -> dict[str, Any]:
    return {name: getattr(score, name) for name in SideOutput.model_fields}


class DecisionCost(Strict):
    """Cost of one team step, in which every agent decides once."""

    parameters: int
    parameters_once: int | None = Field(
        default=None, description="shared networks counted once; absent where none is shared"
    )
    macs: int
    flops: int


class CostOutput(Strict):
    """Cost of a team step of expert and students."""

    expert: DecisionCost
    student: DecisionCost
    flops_reduction: float


class EvaluateOutput(Strict):
    """JSON output of ``evaluate``; a mode that was not played is absent."""

    episodes: int
    greedy: ModeOutput | None = None
    sampled: ModeOutput | None = None
    cost: CostOutput
    agreement: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="absent where nobody has anything to decide"
    )

    @classmethod
    def of(cls, report: EvaluationReport) -> EvaluateOutput:
        """Return the part of ``evaluation.json`` that is the contract."""
        cost = report.cost
        decisions = {
            name: DecisionCost(
                parameters=c.parameters,
                parameters_once=c.parameters_once,
                macs=c.macs,
                flops=c.flops,
            )
            for name, c in (("expert", cost.expert), ("student", cost.student))
        }
        return cls(
            episodes=report.episodes,
            greedy=None if report.greedy is None else ModeOutput.of(report.greedy),
            sampled=None if report.sampled is None else ModeOutput.of(report.sampled),
            cost=CostOutput(flops_reduction=cost.flops_reduction, **decisions),
            agreement=report.agreement,
        )


class SeedComparison(Strict):
    """One team of a run and of its repetition."""

    seed: int
    identical: bool = Field(description="the weights agree bit for bit")
    differences: dict[str, float] = Field(
        default_factory=dict, description="held-out metric, repetition minus original"
    )


class RerunReport(Strict):
    """JSON output of ``rerun``: whether a run could be repeated."""

    ok: bool
    run: str
    rerun: str
    same_platform: bool = Field(description="bits must agree where this is true")
    platform_differences: tuple[str, ...] = ()
    identical: bool
    compared_by: Literal["bits", "bits or held-out metrics"] = Field(
        default="bits or held-out metrics",
        description="bits alone, where nothing was held out in both runs",
    )
    tolerance: dict[str, float] = Field(
        default_factory=dict, description="largest difference allowed on another platform"
    )
    seeds: tuple[SeedComparison, ...]


class Extra(Strict):
    """One optional library."""

    library: str
    extra: str
    version: str | None = Field(default=None, description="absent where it is not installed")
    install: str | None = Field(default=None, description="how to get it, where it is absent")


class StarCraft(Strict):
    """Installed parts of the original StarCraft II environment.

    ``automl``: AutoML's optimiser of the same name is installed instead; ``foreign``: something
    else of that name; ``no_library`` and ``no_game``: StarCraft's package without all it needs.
    """

    state: Literal["nothing", "automl", "foreign", "no_library", "no_game", "ready"]
    detail: str = Field(description="what was found and what to do, in words")
    package: str | None = Field(default=None, description="folder of the package smac")
    version: str | None = None
    game: str | None = Field(default=None, description="folder of the game")
    builds: tuple[int, ...] = Field(default=(), description="of the game; SMAC plays the last")
    maps: tuple[str, ...] = ()


class DoctorReport(Strict):
    """JSON output of ``doctor``: the state of this installation."""

    kd_offline: str
    python: str
    system: str
    processor: str
    cores: int
    cpu_capability: str | None
    torch: str | None
    packages: dict[str, str]
    extras: tuple[Extra, ...]
    starcraft: StarCraft
    bundled_experts: tuple[str, ...]


class HardwareOutput(Strict):
    """JSON output of ``hardware``: every profile inside the package."""

    profiles: tuple[HardwareProfile, ...]


class ExportOutput(Strict):
    """JSON output of ``export``."""

    path: str
    formats: tuple[Format, ...]
    precision: Precision
    seed: int = Field(description="distillation seed of the team")
    parameters: int = Field(description="numbers stored, of all agents")
    parameter_bytes: int
    macs: int = Field(description="multiply-accumulates of a team step, matrices only")
    gate: Gate
    microcontrollers: tuple[Core, ...] = ()

    @classmethod
    def of(cls, manifest: ExportManifest, path: str) -> ExportOutput:
        """Return the part of ``export.json`` that is the contract."""
        return cls(
            path=path,
            formats=manifest.formats,
            precision=manifest.precision,
            seed=manifest.seed,
            parameters=sum(agent.parameters for agent in manifest.agents),
            parameter_bytes=sum(agent.parameter_bytes for agent in manifest.agents),
            macs=sum(agent.macs for agent in manifest.agents),
            gate=manifest.gate,
            microcontrollers=manifest.microcontrollers,
        )
