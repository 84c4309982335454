"""``profile.json``: describes a team to those who run it: interface, measurements and limits."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from kd_offline.schemas.bounds import MAX_AGENTS, Observation, Steps
from kd_offline.schemas.document import Document
from kd_offline.schemas.environment import Scalar, Strict
from kd_offline.schemas.evaluation import (
    AgentCost,
    Cost,
    CostPrediction,
    Estimate,
    ModeScore,
    Share,
)
from kd_offline.schemas.export import RESET, AgentContract, Core, Format, Precision
from kd_offline.schemas.hardware import Energy
from kd_offline.schemas.robustness import FailureRule, Mode, SharedFailures, Tolerance
from kd_offline.schemas.run import Machine

PROFILE_FORMAT = (1, 3)

Count = Annotated[int, Field(ge=0)]
Range = tuple[Observation, Observation]
Ranges = tuple[Range, ...]


class ObservationBlock(Strict):
    """One block of an agent's whole observation; ranges are half-open."""

    name: str
    ranges: Ranges
    width: Observation
    seen: tuple[Observation, ...] = Field(description="indices that the student may see")
    visibility: Literal["seen", "partly seen", "hidden", "drawn for each episode"]

    @model_validator(mode="after")
    def _ranges_are_as_wide_as_the_block(self) -> ObservationBlock:
        if sum(max(0, stop - start) for start, stop in self.ranges) != self.width:
            msg = f"the ranges of block {self.name!r} are not {self.width} numbers wide together"
            raise ValueError(msg)
        return self


class AgentProfile(Strict):
    """One agent of the team."""

    side: str
    contract: AgentContract = Field(description="what a step takes and gives")
    blocks: tuple[ObservationBlock, ...] = Field(description="in the order of the observation")
    cost: AgentCost = Field(description="of one decision, float32")


class RoleClusters(Strict):
    """Shares of each agent's expert embeddings among the distilled roles."""

    roles: PositiveInt
    how: str = Field(description="how the roles' directions were chosen")
    shares: dict[str, tuple[Share, ...]] = Field(
        description="mean role distribution of each agent on recorded training episodes"
    )


class Groups(Strict):
    """The agents of each side, and role clusters where they are known."""

    sides: dict[str, tuple[str, ...]] = Field(description="agents that share an interest")
    clusters: RoleClusters | None = Field(
        default=None, description="absent where the method has none or the dataset was not there"
    )


class HiddenState(Strict):
    """When memory is reset. Parts and widths of each agent's memory are in its contract."""

    reset: str = RESET
    agents: tuple[str, ...] = Field(description="those that keep anything from step to step")


class Topology(Strict):
    """Messages between agents while the team acts."""

    communication: Literal["none"] = "none"
    meaning: str = (
        "each student decides from its own observation and its own memory alone; critics, roles "
        "and embeddings of the expert were used in training and are not part of the team"
    )


class Digests(Strict):
    """The sha256 digests of the files that the profile describes."""

    students: dict[str, str] = Field(description="distillation seed -> digest of the weights")
    dataset: str = Field(description="content id")
    expert: str = Field(description="weights of the recorded expert")
    run: str = Field(description="of run.json")
    export: str | None = Field(default=None, description="of export.json")


class ExportFacts(Strict):
    """The export that the profile describes."""

    formats: tuple[Format, ...]
    precision: Precision
    seed: int = Field(description="distillation seed of the team")
    recorded_agreement: Share | None = Field(
        default=None,
        description="with the trained students, on recorded decisions; null: nothing to decide",
    )
    recorded_part: str | None = Field(
        default=None, description="of the dataset, that those are in; null: not stated"
    )
    cores: tuple[Core, ...] = Field(
        default=(), description="kind: emulated; instruction counts are no latencies"
    )


class Played(Strict):
    """Results of the team in its environment. Kind: measured."""

    kind: Literal["measured"] = "measured"
    who: str = Field(description="students, or the export's precision and engine")
    seeds: tuple[int, ...] = Field(description="distillation seeds of the teams that played")
    episodes: PositiveInt
    evaluation_seed: Count
    expert: str
    ceiling: str | None = None
    greedy: ModeScore | None = None
    sampled: ModeScore | None = None
    agreement: Share | None = Field(
        default=None,
        description="share of decisions that are the expert's, in play; null: nothing to decide",
    )
    joint_agreement: Share | None = Field(
        default=None, description="share of team steps that are the expert's"
    )
    held_out_agreement: Share | None = Field(
        default=None, description="the same on recorded held-out episodes, mean over the seeds"
    )
    intervals: str
    command: str = Field(description="RUN, EXPORT and the like stand for the folders")


class TimedEngine(Strict):
    """Step latency of one engine on the machine named beside it. Kind: measured."""

    kind: Literal["measured"] = "measured"
    who: Literal["expert", "student"]
    engine: str
    agents: tuple[str, ...]
    batch: PositiveInt
    samples: PositiveInt
    p50_us: float
    p95_us: float
    p99_us: float
    energy: Energy


class Latency(Strict):
    """Latencies of one interleaved run on one thread, of the students in float32."""

    machine: Machine
    compiler: str | None = None
    engines: tuple[TimedEngine, ...]


class Robustness(Strict):
    """Perturbations that the team tolerates. Kind: measured."""

    kind: Literal["measured"] = "measured"
    who: str = Field(default="students", description="students, or precision and engine")
    mode: Mode = Field(default="greedy", description="how actions were chosen")
    seeds: tuple[int, ...] = Field(description="distillation seeds of the teams that played")
    episodes: PositiveInt
    evaluation_seed: Count
    keep: Share = Field(description="share of the unperturbed gain that tolerances ask for")
    tolerances: tuple[Tolerance, ...]
    failure: FailureRule
    failures: SharedFailures | None = Field(
        default=None, description="unperturbed, where two seeds or more played"
    )
    command: str = Field(description="RUN and the like stand for the folders")


class Envelope(Strict):
    """Measurements of the team; what was not measured is absent and named in the limits."""

    played: Played | None = None
    robustness: Robustness | None = Field(
        default=None,
        description="of the students as trained, also in the profile of an export that was not "
        "audited itself",
    )
    cost: Cost | None = Field(default=None, description="kind: exact, closed form")
    latency: Latency | None = None
    predictions: tuple[CostPrediction, ...] = Field(default=(), description="kind: modelled")


class MixedTeam(Strict):
    """Results of a team in which one agent was swapped, played greedily, on the agent's side."""

    returns: Estimate
    retention: Estimate | None = Field(default=None, description="normalised")
    win_rate: Estimate | None = None


class SwappedAgent(Strict):
    """One row of the matrix."""

    agent: str
    side: str
    experts: Estimate | None = Field(default=None, description="return with nobody swapped")
    students: Estimate | None = Field(default=None, description="return of the whole student side")
    student_among_experts: MixedTeam
    expert_among_students: MixedTeam


class CrossPlayMatrix(Strict):
    """Results of swapping each agent, one at a time, on the same seeds. Kind: measured."""

    kind: Literal["measured"] = "measured"
    who: str = Field(description="students, or the export's precision and engine")
    episodes: PositiveInt
    evaluation_seed: Count
    agents: tuple[SwappedAgent, ...]


class Limit(Strict):
    """A caveat: what the figures do not show."""

    topic: Literal["mask", "agreement", "seeds", "scope", "robustness", "not measured"]
    text: str
    command: str | None = Field(
        default=None, description="what makes it; RUN, EXPORT and the like stand for the folders"
    )


class CollaborationProfile(Document):
    """The content of ``profile.json``."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    kind: Literal["kd-offline collaboration profile"] = "kd-offline collaboration profile"
    version: tuple[int, int] = PROFILE_FORMAT
    made_with: str = Field(description="version of kd-offline")
    environment: str
    environment_kwargs: dict[str, Scalar] = Field(default_factory=dict)
    episode_limit: Steps = Field(description="steps")
    method: str
    mask: str
    agents: tuple[AgentProfile, ...] = Field(min_length=1, max_length=MAX_AGENTS)
    groups: Groups
    hidden_state: HiddenState
    topology: Topology = Topology()
    digests: Digests
    export: ExportFacts | None = None
    envelope: Envelope
    cross_play: CrossPlayMatrix | None = None
    limits: tuple[Limit, ...]
