"""Models of blind spots: regions where an expert is weak or was rarely recorded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kd_offline.schemas.audit import DecisionPlace
from kd_offline.schemas.environment import Strict

Weakness = Literal["low value", "high entropy", "few decisions", "students differ"]


class ColumnRange(Strict):
    """A range of one column of the observations; an end that is absent is open."""

    column: str
    low: float | None = None
    high: float | None = None


class WeakRegion(Strict):
    """One region of an agent's observations, and what is weak there."""

    number: int = Field(ge=1, description="as in the pictures")
    why: Weakness
    agent: str
    columns: tuple[ColumnRange, ...]
    decisions: int = Field(ge=0, description="of the sample")
    share: float = Field(ge=0, le=1, description="of the agent's decisions in the sample")
    value: float | None = Field(default=None, description="mean of the critic's")
    entropy: float | None = Field(default=None, description="mean of the policy's, in nats")
    student_kl: float | None = Field(
        default=None, description="mean KL(expert, student) in held-out episodes, in nats"
    )
    places: tuple[DecisionPlace, ...] = Field(description="the weakest, at most 3")


class AgentGrid(Strict):
    """Means over the cells of two columns of an agent's observations; null in empty cells."""

    agent: str
    columns: tuple[str, ...] = Field(description="one or two; rows of the tables, then columns")
    explained: float = Field(description="share of the variance of values and entropy, adjusted")
    edges: tuple[tuple[float, ...], ...] = Field(description="between cells, the outer ones open")
    decisions: tuple[tuple[int, ...], ...]
    value: tuple[tuple[float | None, ...], ...] | None = None
    entropy: tuple[tuple[float | None, ...], ...] | None = None
    student_kl: tuple[tuple[float | None, ...], ...] | None = None


class BlindSpots(Strict):
    """Blind spots of a teacher, from a sample of a dataset's decisions."""

    episodes: int = Field(ge=0, description="that were read")
    decisions: int = Field(ge=0)
    student_episodes: int = Field(default=0, ge=0, description="held-out, that students went over")
    agents: tuple[AgentGrid, ...]
    regions: tuple[WeakRegion, ...]
    notes: tuple[str, ...] = Field(default=(), description="what could not be shown, and why")
