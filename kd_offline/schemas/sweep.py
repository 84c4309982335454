"""``sweep.json``: students of many sizes, and the Pareto front among them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kd_offline.schemas.bounds import Episodes, Layers
from kd_offline.schemas.budget import BudgetFigure, Quantity
from kd_offline.schemas.document import Document
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import DatasetReference

Judge = Literal["retention", "agreement"]


SWEEP_FORMAT = (1, 2)


class SweepPlan(Document):
    """Settings of a sweep; the same for every process that takes part."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    version: tuple[int, int] = SWEEP_FORMAT
    recipe: DistillRecipe = DistillRecipe()
    architectures: tuple[str, ...] = Field(
        default=("gru", "mlp", "low-rank"),
        min_length=1,
        description="student families, and variants of them",
    )
    widths: Layers = Field(default=(8, 16, 24, 32, 48, 64), min_length=1)
    precisions: tuple[Literal["fp32", "int8"], ...] = Field(default=("fp32", "int8"), min_length=1)
    profile: str = Field(default="stm32f4", description="device that the time is predicted for")
    judge: Judge = Field(
        description="retention: greedy play in the environment; agreement: of greedy choices with "
        "the expert's on the episodes of the part, from the file alone"
    )
    part: str | None = Field(
        default=None,
        description="of the dataset, that agreement and KL are measured on: train where nothing is "
        "held out; null: not stated",
    )
    episodes: Episodes = Field(
        default=1000, description="of the environment, or of the part at most"
    )
    seed: int = Field(default=0, ge=0)


class SweepPoint(Strict):
    """One distilled team with its quality and costs."""

    trial: int
    run: str = Field(description="run folder, within the folder of the sweep")
    architecture: str
    precision: Literal["fp32", "int8"]
    widths: tuple[int, ...]
    quality: float = Field(description="what the plan's judge measured; more is better")
    held_out_kl: float | None = Field(default=None, description="to the expert, as trained")
    figures: dict[Quantity, BudgetFigure] = Field(description="sum over agents")
    front: bool = Field(description="no other team is at least as good in everything")


class SweepReport(Document):
    """The content of ``sweep.json``."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    kind: Literal["kd-offline sweep"] = "kd-offline sweep"
    version: tuple[int, int] = SWEEP_FORMAT
    plan: SweepPlan
    dataset: DatasetReference
    environment: str
    objectives: tuple[str, ...]
    points: tuple[SweepPoint, ...]
    failed: int = Field(default=0, ge=0, description="trials that were interrupted or failed")
