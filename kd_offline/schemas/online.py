"""``dagger.json`` and ``adaptation.json``: distillation that goes on with an environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from kd_offline.schemas.document import Document
from kd_offline.schemas.environment import Scalar, Strict
from kd_offline.schemas.evaluation import Estimate, ModeScore
from kd_offline.schemas.run import DatasetReference


class Students(Strict):
    """Students of one run and their scores."""

    run: str = Field(description="run folder; relative to this document where it lies below it")
    digests: dict[str, str] = Field(description="sha256 of the weights of each seed")
    greedy: ModeScore
    sampled: ModeScore
    change: Estimate | None = Field(
        default=None,
        description="greedy return minus that of the students before, in the same episodes",
    )


class DaggerRound(Strict):
    """One round: students played, the expert labelled, students learned from all episodes."""

    number: int = Field(ge=1)
    recorded: str = Field(description="id of the dataset that the students' play was recorded in")
    dataset: DatasetReference = Field(description="all episodes so far")
    episodes: int = Field(gt=0, description="of that dataset")
    students: Students


class DaggerReport(Document):
    """The content of ``dagger.json``; ``rounds`` are those that are finished."""

    kind: Literal["kd-offline dagger"] = "kd-offline dagger"
    version: tuple[int, int] = (1, 0)
    status: Literal["running", "complete"]
    plan: dict[str, JsonValue] = Field(description="what the loop was asked for")
    environment: str
    expert: str = Field(description="digest of the expert that labels")
    dataset: DatasetReference = Field(description="what the first students were distilled from")
    first: Students = Field(description="the students that the loop began with")
    rounds: tuple[DaggerRound, ...] = ()
    command: str = ""


class TaskScores(Strict):
    """Students before and after an adaptation, on one task."""

    environment: str
    environment_kwargs: dict[str, Scalar] = Field(default_factory=dict)
    expert: str = Field(description="digest of the expert that they are compared with")
    before: Students
    after: Students


class AdaptationReport(Document):
    """The content of ``adaptation.json``."""

    kind: Literal["kd-offline adaptation"] = "kd-offline adaptation"
    version: tuple[int, int] = (1, 0)
    former: TaskScores = Field(description="the task that they were distilled for: what is kept")
    new: TaskScores = Field(description="the task of the dataset: what was learned")
    episodes: int = Field(gt=1, description="of each evaluation")
    evaluation_seed: int = Field(ge=0)
    command: str = ""
