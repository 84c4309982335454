"""``evaluation.json``: returns, retention, agreement and cost of the students, with intervals."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_serializer

from kd_offline.schemas.document import Document
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.hardware import Prediction

Share = Annotated[float, Field(ge=0, le=1)]


class Estimate(Strict):
    """A mean with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


class RetentionScores(Strict):
    """Retention in three ways, as fractions; ``normalised`` is null where it is undefined."""

    ratio: float | None = Field(default=None, description="win rate, student / expert")
    normalised: float | None = Field(description="(student - random) / (expert - random)")
    of_ceiling: float | None = Field(
        default=None, description="(student - random) / (ceiling - random)"
    )

    @model_serializer(mode="plain")
    def _write(self) -> dict[str, float | None]:
        # Two keys are absent where they do not apply; this one is there even when it is null.
        optional = {"ratio": self.ratio, "of_ceiling": self.of_ceiling}
        found = {name: value for name, value in optional.items() if value is not None}
        return {"normalised": self.normalised} | found


class RetentionIntervals(Strict):
    """The three retentions with their 95 % intervals."""

    ratio: Estimate | None = None
    normalised: Estimate | None = None
    of_ceiling: Estimate | None = None


class WinRates(Strict):
    """Share of won episodes of each policy, where the task has wins."""

    expert: Estimate
    student: Estimate
    random: Estimate
    ceiling: Estimate | None = None


class SideScore(Strict):
    """Results of one side; all other agents are played by the expert."""

    agents: tuple[str, ...]
    expert: Estimate
    student: Estimate
    random: Estimate
    ceiling: Estimate | None = None
    retention: RetentionScores
    retention_intervals: RetentionIntervals


class SeedScore(Strict):
    """Results of the team of one distillation seed."""

    seed: int
    mean: float = Field(description="return of that team")
    normalised: float | None = None
    won: Share | None = Field(default=None, description="win rate, where the task has wins")


class Agreement(Strict):
    """How often student and expert choose the same greedy action in the student's own play."""

    action: Share = Field(
        description="share of decisions with the same action; a decision has two or more legal ones"
    )
    joint: Share = Field(
        description="share of the steps at which anybody of a side decides, with all of it agreeing"
    )
    agents: dict[str, Share] = Field(description="of the agents that have anything to decide")
    kl: dict[str, float] = Field(description="mean KL(expert || student) in nats, by agent")


class ExpertScore(Strict):
    """Students beside one of several experts, in the same episodes."""

    expert: Estimate
    difference: Estimate = Field(description="return of the students less that of the expert")
    normalised: Estimate | None = Field(
        default=None, description="(student - random) / (expert - random)"
    )


class ModeScore(Strict):
    """Figures of one way of choosing actions.

    Returns are sums over agents and steps. In a task of several sides each side's part is played
    against the expert's other sides, and the parts are added.
    """

    expert: Estimate
    student: Estimate
    random: Estimate
    ceiling: Estimate | None = None
    retention: RetentionScores
    retention_intervals: RetentionIntervals
    win_rate: WinRates | None = None
    sides: dict[str, SideScore]
    seeds: tuple[SeedScore, ...]
    length: dict[str, float] = Field(description="mean episode length in steps, by policy")
    agreement: Agreement | None = Field(
        default=None, description="of the first mode; absent where nobody has anything to decide"
    )
    experts: dict[str, ExpertScore] | None = Field(
        default=None,
        description="of the experts beside the best, by name, where several were given",
    )


class AgentMemory(Strict):
    """Bytes of one agent's deployed network, without its code; null where unknown."""

    parameters_fp32: int = Field(ge=0)
    parameters_fp16: int = Field(ge=0)
    parameters_int8: int | None = Field(
        default=None, ge=0, description="matrices in int8 with one float32 scale a row"
    )
    hidden: int | None = Field(default=None, ge=0, description="kept from step to step")
    activation: int | None = Field(
        default=None, ge=0, description="the largest that is alive at once within a step"
    )
    flash: int | None = Field(
        default=None, ge=0, description="of a student: constant tables of the exported C, fp32"
    )
    ram: int | None = Field(
        default=None, ge=0, description="of a student: static buffers of the exported C"
    )


class AgentCost(Strict):
    """One decision of one agent's deployed network."""

    agent: str
    inputs: int = Field(ge=0, description="features after dropping what the mask hides")
    trunk: tuple[int, ...]
    gru: int | None = None
    layers: tuple[str, ...] = Field(
        default=(), description="in words, of networks that are not of trunk and GRU"
    )
    actions: int
    parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    flops: int = Field(ge=0)
    elementwise: int = Field(ge=0)
    zeros: int = Field(
        default=0,
        ge=0,
        description="weights of sparse matrices, which count nowhere; absent: 0",
        exclude_if=lambda zeros: zeros == 0,
    )
    memory: AgentMemory | None = None


class EpisodeCost(Strict):
    """FLOPs of the team over a whole episode."""

    mean_length: float = Field(ge=0, description="measured, steps")
    flops: float = Field(ge=0, description="at the measured mean length, agents that acted")
    limit: int = Field(gt=0, description="the task's limit, steps")
    flops_at_limit: int = Field(ge=0)


class TeamCost(Strict):
    """``macs``, ``flops`` and ``elementwise`` are of one team step: every agent decides once."""

    parameters: int = Field(ge=0, description="sum over agents; each carries its own network")
    parameters_once: int | None = Field(
        default=None,
        ge=0,
        description="the same where agents share networks and each is counted once, as datasets "
        "and experts state it; absent where none is shared, or it is not known",
    )
    macs: int = Field(ge=0)
    flops: int = Field(ge=0, description="2 for each multiply-accumulate, matrix products only")
    elementwise: int = Field(ge=0, description="biases, activations, normalisation, gates")
    agents: tuple[AgentCost, ...]
    episode: EpisodeCost


class ExpertWithCritic(Strict):
    """Cost of the expert's actors together with the critics or the mixer that estimate its values.

    ``macs``, ``flops`` and ``elementwise`` are of one team step.
    """

    parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    flops: int = Field(ge=0)
    flops_per_decision: float = Field(ge=0, description="of the team step, divided by the agents")
    elementwise: int = Field(ge=0)
    episode: EpisodeCost


class Cost(Strict):
    """Cost of the expert's and of the students' team."""

    expert: TeamCost
    student: TeamCost
    expert_with_critic: ExpertWithCritic | None = Field(
        default=None, description="absent where the expert has no critic or does not say"
    )
    flops_reduction: float = Field(description="expert / student, per team step")
    parameters_reduction: float = Field(description="expert / student, a network for each agent")
    parameters_reduction_once: float | None = Field(
        default=None, description="the same with the expert's shared networks counted once"
    )
    convention: str


class CostPrediction(Strict):
    """Predicted latency and energy of one decision of one agent on a device."""

    who: Literal["expert", "student"]
    agent: str
    prediction: Prediction


class Swaps(Strict):
    """One result of every mixed team, by the agent that was swapped."""

    student_among_experts: tuple[Estimate, ...]
    expert_among_students: tuple[Estimate, ...]


class CrossPlay(Strict):
    """Teams mixed from experts and students, greedy, as normalised retention of the side."""

    agents: tuple[str, ...]
    student_among_experts: tuple[Estimate | None, ...]
    expert_among_students: tuple[Estimate | None, ...]
    returns: Swaps | None = Field(
        default=None, description="of the swapped agent's side; absent in files of before"
    )
    win_rates: Swaps | None = Field(default=None, description="where the task has wins")


class ActionHeat(Strict):
    """Share of each action at each step, over episodes in which the agent acted."""

    agent: str
    actions: tuple[str, ...]
    expert: tuple[tuple[Share, ...], ...] = Field(description="[T][A]")
    student: tuple[tuple[Share, ...], ...] = Field(description="[T][A]")


class EvaluationReport(Document):
    """The content of ``evaluation.json``."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    kind: Literal["kd-offline evaluation"] = "kd-offline evaluation"
    version: tuple[int, int] = (1, 1)
    run: str
    environment: str
    method: str
    mask: str
    dataset: str = Field(description="content id")
    expert: str
    opponents: dict[str, str] = Field(
        default_factory=dict, description="side -> who plays the other sides"
    )
    ceiling_policy: str | None = None
    episodes: int = Field(gt=0)
    evaluation_seed: int = Field(ge=0)
    distillation_seeds: tuple[int, ...]
    students: dict[str, str] = Field(
        default_factory=dict, description="distillation seed -> digest of its students' weights"
    )
    export: str | None = Field(
        default=None, description="precision and engine, where an export played"
    )
    greedy: ModeScore | None = None
    sampled: ModeScore | None = None
    cost: Cost
    predictions: tuple[CostPrediction, ...] = Field(
        default=(), description="of devices that were named; never measured"
    )
    agreement: Share | None = Field(
        default=None,
        description="action agreement of greedy play, over all agents; absent where nobody has "
        "anything to decide",
    )
    joint_agreement: Share | None = None
    action_frequency: tuple[ActionHeat, ...]
    cross_play: CrossPlay | None = None
    intervals: str
    accelerator: str | None = Field(
        default=None, description="what networks were computed on, where that was asked for"
    )
    command: str
    seconds: float = Field(ge=0)
