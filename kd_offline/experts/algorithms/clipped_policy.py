"""Clipped policy updates of a team with critics, shared by MAPPO and IPPO (Yu et al., 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

from kd_offline.experts.algorithms.base import Learner, Recorded, Team
from kd_offline.schemas.bounds import Batch, Epochs, Frames
from kd_offline.schemas.dataset import Capture
from kd_offline.schemas.environment import EnvironmentSpec, Strict
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.types import BoolArray


class Kickstart(Strict):
    """A teacher that pulls the policy, at first or throughout.

    The loss gets ``weight`` times the KL divergence of the policy from the teacher, averaged over
    the policy's own play. In kickstarting (``plain``; Schmitt et al., 2018, arXiv 1803.03835) the
    weight decreases linearly to zero. In proximal policy distillation (``proximal``; Spigler, 2024,
    arXiv 2407.15134) it stays, and the divergence in a step counts ``max(ratio, 1 - clip)`` times,
    where ``ratio`` is how much more probable the played action has become since it was played.
    """

    teacher: str = Field(description="an expert, as a recording takes it")
    form: Literal["plain", "proximal"] = Field(
        default="plain",
        description="mean divergence, or weighted by the ratio of PPO, clipped from below",
        exclude_if=lambda form: form == "plain",
    )
    weight: float = Field(default=1.0, gt=0, description="at first")
    frames: Frames | None = Field(
        default_factory=lambda known: 1_000_000 if known.get("form") == "plain" else None,
        description="joint steps until it is zero; None: it stays; default: 1,000,000 of plain, "
        "None of proximal",
    )


class PolicyArchitecture(ExpertArchitecture):
    """Actors and critics."""

    critic: Literal["central", "local"] = "central"


class PolicyRecipe(TrainRecipe):
    """Settings of clipped policy updates."""

    architecture: PolicyArchitecture = PolicyArchitecture()
    epochs: Epochs = 3
    minibatches: Batch = 6
    entropy: float = Field(default=0.003, ge=0)
    clip: float = Field(default=0.2, gt=0)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    huber_delta: float = Field(default=10.0, gt=0)
    kickstart: Kickstart | None = None

    def experts(self) -> dict[str, str]:
        """Return the experts that the recipe names, by the path of the setting."""
        teacher = {} if self.kickstart is None else {"kickstart.teacher": self.kickstart.teacher}
        return super().experts() | teacher


@dataclass(frozen=True, slots=True)
class ClippedPolicy:
    """An algorithm that updates a policy on its latest batch of episodes."""

    description: str
    recipe: type[PolicyRecipe] = PolicyRecipe

    @property
    def figures(self) -> Mapping[str, str]:
        """The metrics of the learning curve."""
        return {
            "entropy": "of the policy, in nats",
            "approximate_kl": "of the policy from the one that played, in nats",
            "clip_fraction": "share of the steps whose ratio was clipped",
            "value_loss": "in normalised units",
            "explained_variance": "share of the returns' variance that the critic explains",
            "teacher_kl": "KL(teacher || policy) in nats, while there is a teacher",
        }

    def recorded(self, recipe: TrainRecipe) -> Recorded:
        """Return the description of its outputs: raw logits, and values of each side."""
        return Recorded(
            Capture(output="logits", embedding=recipe.architecture.embedding),
            "discounted sum of the mean reward of the agent's side, raw units",
        )

    def team(
        self,
        spec: EnvironmentSpec,
        recipe: TrainRecipe,
        mask: BoolArray | None,
        rng: np.random.Generator | None,
    ) -> Team:
        """Return actors and critics."""
        from kd_offline.experts.policy_team import PolicyTeam
        from kd_offline.experts.ppo import ValueNorm
        from kd_offline.experts.team import ActorCritic

        scaled = recipe.start is not None
        model = ActorCritic(spec, recipe.architecture, mask, rng, scaled=scaled)
        return PolicyTeam(model, ValueNorm(len(spec.sides)))

    def learner(self, team: Team, spec: EnvironmentSpec, recipe: TrainRecipe) -> Learner:
        """Return the learner of actors and critics."""
        from kd_offline.experts.policy_learner import PolicyLearner
        from kd_offline.experts.policy_team import PolicyTeam

        return PolicyLearner(cast(PolicyTeam, team), spec, cast(PolicyRecipe, recipe))
