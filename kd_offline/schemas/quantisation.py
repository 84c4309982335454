"""``quantisation.json``: results of eight-bit weights, rounded after training or in training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kd_offline.schemas.document import Document
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.evaluation import Estimate, Share
from kd_offline.schemas.export import Comparison

Rounding = Literal["fp32", "int8 after training", "int8 in training"]


class QuantisedTeams(Strict):
    """The teams of all distillation seeds in one precision, greedy, as they are exported."""

    name: Rounding
    run: str = Field(description="name of the run folder")
    student: Estimate = Field(description="return, sum over agents and steps")
    retention: Estimate | None = Field(
        default=None, description="normalised; absent where it is undefined"
    )
    win_rate: Estimate | None = Field(default=None, description="where the task has wins")
    agreement: Share | None = Field(
        default=None,
        description="with the expert, on the decisions that the students meet; absent: none",
    )
    joint_agreement: Share | None = None
    rounding: tuple[Comparison, ...] = Field(
        description="for each seed, on recorded episodes against the same weights as floats"
    )
    parameter_bytes: int = Field(gt=0, description="of a team, scales and biases included")


class QuantisationReport(Document):
    """The content of ``quantisation.json``; all rows have the same evaluation episodes."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    kind: Literal["kd-offline quantisation"] = "kd-offline quantisation"
    version: tuple[int, int] = (1, 1)
    run: str
    environment: str
    method: str
    mask: str
    dataset: str = Field(description="content id")
    distillation_seeds: tuple[int, ...]
    students: dict[str, str] = Field(
        default_factory=dict,
        description="distillation seed -> digest of the weights that were rounded afterwards",
    )
    episodes: int = Field(gt=0)
    evaluation_seed: int = Field(ge=0)
    expert: Estimate
    random: Estimate
    rows: tuple[QuantisedTeams, ...]
    intervals: str
    command: str
    seconds: float = Field(ge=0)
