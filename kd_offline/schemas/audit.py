"""Report of an audit of a dataset: statistical signs that it was poisoned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kd_offline.schemas.environment import Strict

CheckName = Literal["actions", "outputs", "labels", "embeddings", "patterns"]


class DecisionPlace(Strict):
    """One decision to look at."""

    episode: int = Field(ge=0)
    step: int = Field(ge=0, description="within the episode, from 0")
    agent: str


class AuditFinding(Strict):
    """Decisions of one source that do not go with the rest of the dataset."""

    check: CheckName
    expert: int = Field(description="as in episodes/expert_id")
    episodes: tuple[int, int] = Field(description="half-open range that the source lies in")
    agent: str | None = Field(default=None, description="absent: all of them")
    where: str | None = Field(default=None, description="region or pattern of the observations")
    action: str | None = Field(
        default=None, description="what most of these decisions have as their label"
    )
    count: int = Field(ge=0, description="decisions that do not go with the rest")
    of: int = Field(ge=0, description="decisions that were compared")
    expected: float = Field(ge=0, description="how many of them would have been usual")
    log10_p: float = Field(le=0, description="decimal logarithm of an upper bound of the p value")
    places: tuple[DecisionPlace, ...] = Field(description="the clearest ones, at most 10")


class AuditCheck(Strict):
    """How much one check could compare."""

    tests: int = Field(ge=0, description="0: it could not be made")
    note: str = Field(default="", description="why it could not be made, or only in part")


class AuditReport(Strict):
    """Findings of the audit of a dataset; a finding is a reason to look, not a proof."""

    ok: bool = Field(description="nothing was found")
    episodes: int = Field(ge=0, description="that were read")
    decisions: int = Field(ge=0, description="of agents with a choice, that were read")
    sources: int = Field(ge=0, description="parts of the dataset that were compared")
    level: float = Field(description="probability of a false alarm, at most, over all tests")
    checks: dict[CheckName, AuditCheck]
    findings: tuple[AuditFinding, ...] = Field(description="the clearest first, at most 20")
    keep: str | None = Field(
        default=None,
        description="condition of `filter` that leaves out the sources of these findings; absent: "
        "there are none, or nothing would be left",
    )
    left_out: int = Field(default=0, ge=0, description="further findings, weaker than these")
