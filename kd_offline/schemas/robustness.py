"""``robustness.json``: what is left of a team's return when something goes wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kd_offline.schemas.document import Document
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.evaluation import Estimate, Share
from kd_offline.schemas.parts import PartRecord

Who = Literal["expert", "students"]
Mode = Literal["greedy", "sampled"]

Correlation = Annotated[float, Field(ge=-1.001, le=1.001)]


class FailureRule(Strict):
    """When an episode counts as failed."""

    rule: Literal["not won", "return below a quantile of the expert's"]
    quantile: Share | None = None
    threshold: float | None = Field(default=None, description="return below which it has failed")


class SharedFailures(Strict):
    """Episodes in which the teams of several distillation seeds fail together."""

    rates: tuple[Share, ...] = Field(description="share of failed episodes of each seed")
    expert: Share | None = Field(
        default=None, description="of the expert, under the same perturbation"
    )
    together: Estimate = Field(description="share of episodes in which every seed fails")
    independent: Share = Field(description="product of the rates: what independence would give")
    without_expert: Share = Field(
        description="share of episodes in which every seed fails and the unperturbed expert does "
        "not"
    )
    correlation: Correlation | None = Field(
        default=None,
        description="mean correlation of the failures of two seeds; null where one never or always "
        "fails",
    )


class PerturbedReturn(Strict):
    """One kind of team under a perturbation."""

    returns: Estimate
    change: Estimate = Field(description="less the unperturbed return in the same episodes")
    kept: Estimate | None = Field(
        default=None,
        description="gain over random play, divided by the unperturbed gain; null where undefined",
    )
    won: Estimate | None = Field(default=None, description="win rate, where the task has wins")


class PlayComparison(Strict):
    """Students of another run in the same episodes, under the same perturbation.

    Changes are of the audited run less the other one, paired by episode.
    """

    returns: Estimate
    failures: SharedFailures
    returns_change: Estimate
    failed_change: Estimate = Field(description="share of failed episodes, mean over the seeds")
    together_change: Estimate = Field(description="share of episodes in which every seed fails")


class PerturbedPlay(Strict):
    """Expert and students under one perturbation of one strength."""

    perturbation: str
    strength: float = Field(ge=0)
    description: str
    unit: str = Field(description="what the strength means")
    expert: PerturbedReturn | None = None
    students: PerturbedReturn | None = None
    beyond_expert: Estimate | None = Field(
        default=None, description="change of the students less that of the expert"
    )
    failures: SharedFailures | None = Field(
        default=None, description="where the run has two seeds or more"
    )
    comparison: PlayComparison | None = Field(
        default=None, description="with the students of another run, where one was given"
    )
    declined: dict[Who, str] = Field(
        default_factory=dict, description="expert or students -> why they were not played"
    )


class Tolerance(Strict):
    """The strengths of a perturbation that a team tolerates, of those that were played."""

    perturbation: str
    unit: str
    tolerated: float = Field(
        ge=0,
        description="the largest strength up to which all are shown to keep enough, by the "
        "lower end of the interval; 0: none",
    )
    exceeded: float | None = Field(
        default=None, description="the smallest strength that is not; null: none"
    )
    kept: Estimate | None = Field(default=None, description="at the largest tolerated strength")


class AgentErrors(Strict):
    """Errors of one agent's students on recorded decisions."""

    error: Share = Field(description="mean over the seeds")
    together: Share = Field(description="share of decisions that every seed gets wrong")
    independent: Share


class SharedErrors(Strict):
    """Recorded decisions in which students choose another action than the expert.

    Students see the recorded episodes, whatever they would have done themselves.
    """

    part: str = Field(description="of the dataset")
    episodes: int = Field(gt=0)
    decisions: int = Field(gt=0, description="with two or more legal actions")
    rates: tuple[Share, ...] = Field(description="share of wrong decisions of each seed")
    together: Estimate = Field(description="share of decisions that every seed gets wrong")
    independent: Share = Field(description="product of the rates")
    correlation: Correlation | None = None
    alike: Share | None = Field(
        default=None,
        description="where two seeds are both wrong, how often they choose the same wrong action",
    )
    alike_by_chance: Share | None = Field(
        default=None, description="the same for wrong actions that are drawn uniformly"
    )
    agents: dict[str, AgentErrors]
    team: Share | None = Field(
        default=None,
        description="share of steps in which all agents of a side that decide are wrong at once, "
        "of those in which all of them decide; mean over the seeds",
    )
    team_independent: Share | None = Field(
        default=None, description="product of the agents' rates in these steps"
    )


class RunComparison(Strict):
    """The run that is compared with, and its errors on the same recorded decisions.

    Changes are of the audited run less the other one, paired by episode.
    """

    run: str
    students: dict[str, str] = Field(description="distillation seed -> digest of its weights")
    errors: SharedErrors | None = Field(default=None, description="where the dataset was there")
    wrong_change: Estimate | None = Field(
        default=None, description="share of wrong decisions, mean over the seeds"
    )
    errors_change: Estimate | None = Field(
        default=None, description="share of decisions that every seed gets wrong"
    )


class ModeScores(Strict):
    """Play with actions chosen in one way; ``plays`` are those that are finished."""

    failure: FailureRule
    unperturbed: PerturbedPlay
    plays: tuple[PerturbedPlay, ...] = ()
    tolerances: tuple[Tolerance, ...] = Field(default=(), description="of the students")
    expert_tolerances: tuple[Tolerance, ...] = ()


_MODE_FIELDS = ("failure", "unperturbed", "plays", "tolerances", "expert_tolerances")


class RobustnessReport(Document):
    """The content of ``robustness.json``."""

    kind: Literal["kd-offline robustness"] = "kd-offline robustness"
    version: tuple[int, int] = (2, 0)
    status: Literal["running", "complete"] = "complete"
    run: str
    environment: str
    method: str
    mask: str
    dataset: str = Field(description="content id")
    expert: str
    export: str | None = Field(
        default=None, description="precision and engine of the export that played as the students"
    )
    episodes: int = Field(gt=1)
    batch: int | None = Field(
        default=None, gt=0, description="episodes played at once; null where it is not known"
    )
    evaluation_seed: int = Field(ge=0)
    distillation_seeds: tuple[int, ...]
    students: dict[str, str] = Field(description="distillation seed -> digest of its weights")
    keep: Share = Field(description="share of the unperturbed gain that tolerances ask for")
    random: Estimate = Field(description="return of random play")
    greedy: ModeScores | None = Field(default=None, description="the most probable legal action")
    sampled: ModeScores | None = Field(default=None, description="actions drawn at temperature 1")
    errors: SharedErrors | None = Field(
        default=None, description="where the dataset was there and the run has two seeds or more"
    )
    comparison: RunComparison | None = Field(
        default=None, description="with another run, where one was given"
    )
    notes: tuple[str, ...] = Field(default=(), description="what was left out, and why")
    parts: tuple[PartRecord, ...] = Field(
        default=(), description="perturbations of plug-ins, with their packages"
    )
    accelerator: str | None = None
    intervals: str
    command: str
    seconds: float = Field(ge=0)

    @property
    def modes(self) -> dict[Mode, ModeScores]:
        """What was played, by the way in which actions were chosen; greedy play first."""
        both: dict[Mode, ModeScores | None] = {"greedy": self.greedy, "sampled": self.sampled}
        return {mode: scores for mode, scores in both.items() if scores is not None}

    @model_validator(mode="before")
    @classmethod
    def _of_greedy_play_alone(cls, stated: Any) -> Any:
        """Read version 1, which held greedy play only; its comparison is left out."""
        if not isinstance(stated, dict) or "unperturbed" not in stated:
            return stated
        rest = {k: v for k, v in stated.items() if k not in (*_MODE_FIELDS, "comparison")}
        return rest | {"greedy": {k: stated[k] for k in _MODE_FIELDS if k in stated}}

    @model_validator(mode="after")
    def _holds_play(self) -> RobustnessReport:
        if not self.modes:
            msg = "neither greedy nor sampled play is there"
            raise ValueError(msg)
        return self
