"""QTRAN-base (Son et al., 2019, arXiv 1905.05408): any value whose greedy actions agents can find.

An unrestricted critic learns the value of joint actions. The sum of the agents' values and a value
of the state has to equal it at the greedy actions, and may not be below it elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pydantic import Field

from kd_offline.experts.algorithms.mixed_values import (
    MixedValues,
    QLearning,
    ValueRecipe,
    mixer_shape,
)
from kd_offline.schemas.bounds import Width
from kd_offline.schemas.environment import EnvironmentSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from kd_offline.experts.joint_critics import JointCritic
    from kd_offline.experts.team import ActorCritic
    from kd_offline.experts.value_learner import JointValues
    from kd_offline.networks.mixers import Mixer


class TransformedQLearning(QLearning):
    """Settings of Q-learning, of the two conditions and of the unrestricted critic."""

    optimal_weight: float = Field(default=1.0, ge=0, description="of the error at greedy actions")
    other_weight: float = Field(default=1.0, ge=0, description="of the error below the critic")
    critic_hidden: Width = Field(default=64, description="hidden layers of the critic")


class TransformedRecipe(ValueRecipe):
    """Settings of QTRAN-base."""

    q_learning: TransformedQLearning = TransformedQLearning()

    def widths(self) -> tuple[int, ...]:
        """Return every width of a network that the recipe states."""
        return (*super().widths(), self.q_learning.critic_hidden)


def _mixer(spec: EnvironmentSpec, settings: QLearning, rng: np.random.Generator | None) -> Mixer:
    from kd_offline.networks.mixers import OffsetSumMixer, draw_weights

    mixer = OffsetSumMixer(mixer_shape(spec, settings))
    if rng is not None:
        draw_weights(mixer, rng)
    return mixer


def _critic(agents: ActorCritic, settings: QLearning, rng: np.random.Generator) -> JointCritic:
    from kd_offline.experts.joint_critics import ActionSumCritic

    hidden = cast(TransformedQLearning, settings).critic_hidden
    return ActionSumCritic(agents, agents.spec.state_width, hidden, rng)


def loss(values: JointValues, recipe: ValueRecipe) -> Tensor:
    """Return the three losses of QTRAN-base at every step, float [T, B] (Eqs. 5 to 8).

    The squared TD error of the critic; the squared difference of sum and critic at the greedy
    actions; and the square of what the sum is below the critic at the executed actions.
    """
    settings, joint = cast(TransformedQLearning, recipe.q_learning), values.unrestricted
    error = (joint.taken - values.target).square()
    optimal = (joint.mixed_best - joint.best.detach()).square()
    below = (values.mixed - joint.taken.detach()).clamp(max=0).square()
    return error + settings.optimal_weight * optimal + settings.other_weight * below


ALGORITHM = MixedValues(
    "Q-learning of a sum that is constrained by an unrestricted critic",
    "qtran",
    _mixer,
    TransformedRecipe,
    _critic,
    loss,
)
