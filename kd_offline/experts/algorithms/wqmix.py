"""Weighted QMIX (Rashid et al., 2020, arXiv 2006.10800): QMIX that attends to good joint actions.

An unrestricted critic learns the value of the executed joint actions. The mixer follows the same
targets, and weights errors less where it would overestimate a joint action that is not the best.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

from kd_offline.experts.algorithms import qmix
from kd_offline.experts.algorithms.mixed_values import MixedValues, QLearning, ValueRecipe
from kd_offline.schemas.bounds import Width

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from kd_offline.experts.joint_critics import JointCritic
    from kd_offline.experts.team import ActorCritic
    from kd_offline.experts.value_learner import JointValues


class WeightedQLearning(QLearning):
    """Settings of Q-learning, of the weights and of the unrestricted critic."""

    weighting: Literal["central", "optimistic"] = Field(
        default="central", description="CW-QMIX (Eq. 10) or OW-QMIX (Eq. 9) of the paper"
    )
    alpha: float = Field(default=0.1, gt=0, le=1, description="weight of errors that count less")
    critic_hidden: Width = Field(default=256, description="hidden layers of the critic")


class WeightedRecipe(ValueRecipe):
    """Settings of weighted QMIX."""

    q_learning: WeightedQLearning = WeightedQLearning()

    def widths(self) -> tuple[int, ...]:
        """Return every width of a network that the recipe states."""
        return (*super().widths(), self.q_learning.critic_hidden)


def _critic(agents: ActorCritic, settings: QLearning, rng: np.random.Generator) -> JointCritic:
    from kd_offline.experts.joint_critics import FeedForwardCritic

    hidden = cast(WeightedQLearning, settings).critic_hidden
    return FeedForwardCritic(agents, agents.spec.state_width, hidden, rng)


def weights(values: JointValues, settings: WeightedQLearning) -> Tensor:
    """Return the weight of the mixer's error at every step: 1 or alpha, float [T, B].

    Central: 1 where the target is above the critic's value of the greedy actions, or where they
    were executed. Optimistic: 1 where the mixer underestimates.
    """
    joint = values.unrestricted
    if settings.weighting == "central":
        counts = (values.target > joint.best) | joint.greedy
    else:
        counts = values.mixed < values.target
    return settings.alpha + (1 - settings.alpha) * counts


def loss(values: JointValues, recipe: ValueRecipe) -> Tensor:
    """Return the weighted error of the mixer plus the error of the critic, float [T, B] (Eq. 6)."""
    weight = weights(values, cast(WeightedQLearning, recipe.q_learning)).detach()
    error = (values.mixed - values.target).square()
    return weight * error + (values.unrestricted.taken - values.target).square()


ALGORITHM = MixedValues(
    "QMIX that weights errors by an unrestricted critic",
    "qmix",
    qmix.ALGORITHM.make_mixer,
    WeightedRecipe,
    _critic,
    loss,
)
