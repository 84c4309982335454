"""DDN (Zhou et al., 2025): a guiding network that reads the state, and a local one that follows it.

The guiding network learns by Q-learning through any mixer. Beside it a network of the same form,
whose block reads the agent's own observation in place of the state, is distilled from it: L_B of
the blocks' outputs, L_F of the features before the GRU, L_Q of the values. What the paper leaves
open or states wrongly is a setting, see docs/decisions/025-ddn.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from kd_offline.errors import UsageError
from kd_offline.experts.algorithms import qatten, qmix, qplex, vdn, wqmix
from kd_offline.experts.algorithms.base import Learner, Recorded, Team
from kd_offline.experts.algorithms.mixed_values import (
    MixedValues,
    OptimiserName,
    ValueArchitecture,
    ValueRecipe,
    is_default_optimiser,
)
from kd_offline.experts.algorithms.qplex import DuplexQLearning
from kd_offline.experts.algorithms.wqmix import WeightedQLearning
from kd_offline.schemas.bounds import Frames, Width
from kd_offline.schemas.dataset import Capture
from kd_offline.schemas.environment import EnvironmentSpec, Strict
from kd_offline.schemas.expert import TrainRecipe

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.types import BoolArray

Divergence = Literal["kl", "mse"]

MIXERS: dict[str, MixedValues] = {
    "vdn": vdn.ALGORITHM,
    "qmix": qmix.ALGORITHM,
    "qatten": qatten.ALGORITHM,
    "qplex": qplex.ALGORITHM,
    "wqmix": wqmix.ALGORITHM,
}
"""The algorithms whose mixer, critic and loss the guiding network can learn with."""


class GuidedArchitecture(ValueArchitecture):
    """Networks with a fusion block.

    The guiding network reads the state through it; the local one, whose view is ``local`` and which
    a training writes beside its expert, its agent's own observation.
    """

    view: Literal["personalised", "local"] = "personalised"
    block: Literal["fusion"] = "fusion"


class LocalDistillation(Strict):
    """How the local network follows the guiding one (Eqs. 6 and 7).

    Losses are means over agents that are alive. Values are compared over legal actions: ``kl`` is
    KL(guiding || local) of softmaxes, as the paper's divergence of values themselves is none, and
    ``mse`` the mean squared difference.
    """

    acts: Literal["guiding", "local"] = Field(
        default="guiding", description="which network plays the episodes that are learned from"
    )
    block_weight: float = Field(default=1.0, ge=0, description="of L_B")
    value_weight: float = Field(default=1.0, ge=0, description="of L_Q")
    feature_weight: float = Field(default=1.0, ge=0, description="of L_F")
    value_loss: Divergence = Field(default="kl", description="L_Q")
    feature_loss: Divergence = Field(default="kl", description="L_F")
    temperature: float = Field(
        default=0.1, gt=0, description="that values are divided by before the softmax"
    )
    feature_temperature: float = Field(
        default=1.0, gt=0, description="that features are divided by before the softmax"
    )
    centred: bool = Field(
        default=True, description="whether mse compares values less their mean over legal actions"
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="of the local network")
    optimiser: OptimiserName = Field(
        default="adam", exclude_if=is_default_optimiser, description="of the local network"
    )


class Novelty(Strict):
    """Reward for new states by random network distillation (Burda et al., 2018), off by default.

    A network learns what a fixed random one gives for a state; its squared error is the bonus
    (Eqs. 8 and 9), which the guiding network gets with probability ``keep`` in each step.
    """

    coefficient: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="of the bonus, in units of values; 0: none. Above 0.01 it drowns the reward",
    )
    keep: float = Field(default=0.75, gt=0, le=1, description="probability, mu in the paper")
    frames: Frames = Field(
        default=1_000_000, description="joint steps in which the coefficient falls to zero"
    )
    standardise_state: bool = Field(
        default=True, description="whether states are standardised by their running moments"
    )
    standardise_bonus: bool = Field(
        default=True,
        description="whether the bonus is taken less its running mean, by its running deviation",
    )
    width: Width = Field(default=64, description="of both layers")
    learning_rate: float = Field(default=1e-4, gt=0, description="of the learning network")


class GuidedQLearning(WeightedQLearning, DuplexQLearning):
    """Settings of Q-learning with any of the mixers, each with its own."""


class Recipe(ValueRecipe):
    """Settings of DDN; those of weights and critic belong to the mixer ``wqmix``."""

    architecture: GuidedArchitecture = GuidedArchitecture()
    mask: None = Field(default=None, description="the guiding network sees the state")
    mixer: Literal["vdn", "qmix", "qatten", "qplex", "wqmix"] = Field(
        default="qmix", description="algorithm whose mixer the guiding network learns through"
    )
    q_learning: GuidedQLearning = GuidedQLearning()
    distillation: LocalDistillation = LocalDistillation()
    novelty: Novelty = Novelty()

    def widths(self) -> tuple[int, ...]:
        """Return every width of a network that the recipe states."""
        return (*super().widths(), self.q_learning.critic_hidden, self.novelty.width)


class DoubleDistillation:
    """The guiding network is the expert; the local one is left as an expert of its own."""

    description = "guiding network of the state by Q-learning, distilled into a local one"
    recipe = Recipe
    figures: ClassVar[Mapping[str, str]] = {
        **vdn.ALGORITHM.figures,
        "block_loss": "L_B, mean squared difference of the blocks' outputs",
        "value_distillation": "L_Q, of the values, in nats for kl",
        "feature_loss": "L_F, of the features before the GRU, in nats for kl",
        "agreement": "share of decisions in which both networks prefer the same legal action",
        "bonus": "mean of what new states add to the team's reward",
    }

    def recorded(self, recipe: TrainRecipe) -> Recorded:
        """Return the description of its outputs; the local network has no mixer, so no values."""
        recipe = cast(Recipe, recipe)
        if recipe.architecture.view == "local":
            return Recorded(Capture(output="q_values", embedding=recipe.architecture.embedding), "")
        return MIXERS[recipe.mixer].recorded(recipe)

    def team(
        self,
        spec: EnvironmentSpec,
        recipe: TrainRecipe,
        mask: BoolArray | None,
        rng: np.random.Generator | None,
    ) -> Team:
        """Return the guiding network with its mixer, or the local network alone."""
        from kd_offline.experts.guided_team import LocalTeam
        from kd_offline.experts.views import state_width

        recipe = cast(Recipe, recipe)
        if state_width(spec) == 0:
            msg = (
                f"{recipe.algorithm} reads the state through a block, and {spec.id} has none: "
                "choose an environment with a state, or vdn"
            )
            raise UsageError(msg)
        if recipe.architecture.view == "local":
            return LocalTeam.of(vdn.ALGORITHM.team(spec, recipe, mask, rng))
        return MIXERS[recipe.mixer].team(spec, recipe, mask, rng)

    def learner(self, team: Team, spec: EnvironmentSpec, recipe: TrainRecipe) -> Learner:
        """Return a learner of both networks."""
        from kd_offline.experts.guided_learner import GuidedLearner
        from kd_offline.experts.value_team import ValueTeam

        recipe = cast(Recipe, recipe)
        if recipe.architecture.view == "local":
            msg = (
                "the local network is distilled while the guiding one is trained, and is written "
                "beside it: leave out the view"
            )
            raise UsageError(msg)
        return GuidedLearner(cast(ValueTeam, team), spec, recipe, MIXERS[recipe.mixer])


ALGORITHM = DoubleDistillation()
