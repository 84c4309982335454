"""Reports of ``verify`` on replayed and relabelled episodes."""

from __future__ import annotations

from pydantic import Field

from kd_offline.schemas.environment import Scalar, Strict


class Divergence(Strict):
    """The first place where something else came out than the dataset holds.

    First means: of the lowest episode, in it of the lowest step. ``step`` is absent where the
    array has one row an episode. Numbers that are not finite are written as text.
    """

    episode: int = Field(ge=0)
    step: int | None = Field(default=None, ge=0, description="within the episode, from 0")
    array: str
    agent: str | None = None
    entry: str | None = Field(default=None, description="observation block, action or index")
    got: Scalar = Field(description="what came out here")
    stored: Scalar = Field(description="what the dataset holds")

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        of = "".join(f", {part}" for part in (self.agent, self.entry) if part)
        return (
            f"episode {self.episode}{step}: {self.array}{of} came out as {_short(self.got)}, "
            f"but the dataset holds {_short(self.stored)}"
        )


class ArrayGap(Strict):
    """Difference between a stored array and its recomputation."""

    max_error: float | None = Field(
        default=None, description="largest absolute difference; absent: not finite"
    )
    differing: int = Field(ge=0, description="rows that are not the same to the last bit")
    outside: int = Field(ge=0, description="rows that are not within the tolerance")
    ok: bool


class ReplayReport(Strict):
    """Result of playing episodes again from the stored seeds and actions."""

    ok: bool
    exact: bool = Field(description="every compared value is the same to the last bit")
    environment: str
    recorded_version: str
    version: str = Field(description="of the environment that was played here")
    episodes: int
    steps: int
    tolerance: float = Field(description="absolute, and relative to the stored value")
    arrays: dict[str, ArrayGap]
    first: Divergence | None = None


class ExpertCheck(Strict):
    """The expert that labelled the stored observations again."""

    id: int = Field(description="as in episodes/expert_id")
    reference: str
    recorded_digest: str | None = None
    digest: str
    same: bool = Field(description="these are the very weights that were recorded")


class PolicyGap(Strict):
    """KL divergence of the recomputed from the stored policy over legal actions, in nats."""

    mean_kl: float
    max_kl: float


class RelabelReport(Strict):
    """Result of computing the experts' outputs again from the stored observations."""

    ok: bool
    experts: tuple[ExpertCheck, ...]
    episodes: int
    steps: int
    tolerance: float = Field(description="absolute, and relative to the stored value")
    policy: PolicyGap | None = Field(default=None, description="absent without stored logits")
    arrays: dict[str, ArrayGap]
    first: Divergence | None = None


def _short(value: Scalar) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
