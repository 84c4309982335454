"""Q-learning of a team through a mixer, shared by the value-based algorithms.

A mixer combines the values of the agents' chosen actions into one team value, from which the agents
learn their action values. They act epsilon-greedily.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

from kd_offline.errors import UsageError
from kd_offline.experts.algorithms.base import Learner, Recorded, Team
from kd_offline.schemas.bounds import Batch, Epochs, Frames, Layers, Width
from kd_offline.schemas.dataset import Capture
from kd_offline.schemas.environment import EnvironmentSpec, Strict
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe
from kd_offline.seeding import generator

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.experts.joint_critics import JointCritic
    from kd_offline.experts.team import ActorCritic
    from kd_offline.experts.value_learner import Loss
    from kd_offline.networks.mixers import Mixer, MixerShape
    from kd_offline.types import BoolArray


OptimiserName = Literal["adam", "rmsprop"]


def is_default_optimiser(name: str) -> bool:
    """Tell whether it is left out of documents, as earlier versions had no other."""
    return name == "adam"


class QLearning(Strict):
    """Settings of Q-learning from replayed episodes.

    After every batch of played episodes, ``updates_per_batch`` gradient steps are taken on
    ``batch_episodes`` episodes each, drawn from the last ``buffer_episodes``. By default every
    episode is replayed 16 times, as in PyMARL2 (Hu et al., 2021), in batches of PyMARL's size.
    """

    td_lambda: float = Field(default=0.6, ge=0, le=1)
    double: bool = Field(default=True, description="the learning network chooses the next action")
    buffer_episodes: Batch = 5000
    batch_episodes: Batch = 32
    updates_per_batch: Epochs = 16
    target_every: int = Field(default=8, gt=0, description="gradient steps between two targets")
    epsilon_start: float = Field(default=1.0, ge=0, le=1)
    epsilon_end: float = Field(default=0.05, ge=0, le=1)
    epsilon_frames: Frames = Field(default=60_000, description="joint steps of linear decay")
    mixer_embedding: Width = 32
    mixer_hidden: Width = 64


class ValueArchitecture(ExpertArchitecture):
    """Agents of half the usual width that see their last action; a mixer in place of critics."""

    trunk: Layers = (64,)
    gru: Width | None = 64
    last_action: bool = True
    critic: Literal["none"] = "none"


class ValueRecipe(TrainRecipe):
    """Settings of Q-learning with a mixer; defaults as in PyMARL2 (Hu et al., 2021)."""

    architecture: ValueArchitecture = ValueArchitecture()
    learn: None = Field(default=None, description="the whole team learns")
    opponents: None = Field(default=None, description="there are none")
    start: None = Field(default=None, description="values start from chance")
    episodes_per_batch: Batch = 32
    learning_rate: float = Field(default=1e-3, gt=0)
    optimiser: OptimiserName = Field(
        default="adam",
        exclude_if=is_default_optimiser,
        description="adam, or rmsprop with the constants of PyMARL",
    )
    bootstrap_on_truncation: bool = Field(
        default=True, description="whether the future after the time limit has a value"
    )
    q_learning: QLearning = QLearning()

    def widths(self) -> tuple[int, ...]:
        """Return every width of a network that the recipe states."""
        return (*super().widths(), self.q_learning.mixer_embedding, self.q_learning.mixer_hidden)


MakeMixer = Callable[
    [EnvironmentSpec, QLearning, "np.random.Generator | None"],
    "Mixer",
]
"""From an environment, settings and what draws the first weights to a new mixer."""

MakeCritic = Callable[
    ["ActorCritic", QLearning, "np.random.Generator"],
    "JointCritic",
]
"""From agents of its own, settings and what draws its first weights to a new joint critic."""


@dataclass(frozen=True, slots=True)
class MixedValues:
    """An algorithm that learns the values of a team's actions through a mixer.

    ``mixer`` is what recordings call it; a team whose value is the sum of its agents' is ``vdn``.
    An algorithm with a joint critic takes the future's value from it, and states its own ``loss``;
    without a loss it is the squared TD error of the mixed values.
    """

    description: str
    mixer: str
    make_mixer: MakeMixer
    recipe: type[ValueRecipe] = ValueRecipe
    make_critic: MakeCritic | None = None
    loss: Loss | None = None

    @property
    def figures(self) -> Mapping[str, str]:
        """The metrics of the learning curve; values are in raw reward units."""
        return {
            "epsilon": "probability of a random action",
            "td_loss": "root of the mean squared TD error",
            "q_tot": "mean value of the team's actions",
            "target": "mean of what these values should be",
        }

    def recorded(self, recipe: TrainRecipe) -> Recorded:
        """Return the description of its outputs: Q-values, and values of the whole team."""
        return Recorded(
            Capture(output="q_values", embedding=recipe.architecture.embedding),
            "discounted sum of the team's mean reward under its greedy actions, raw units",
            {"mixer": self.mixer},
        )

    def team(
        self,
        spec: EnvironmentSpec,
        recipe: TrainRecipe,
        mask: BoolArray | None,
        rng: np.random.Generator | None,
    ) -> Team:
        """Return agents and a mixer."""
        from kd_offline.experts.ppo import ValueNorm
        from kd_offline.experts.team import ActorCritic
        from kd_offline.experts.value_team import MixedAgents, ValueTeam

        if len(spec.sides) > 1:
            msg = (
                f"{recipe.algorithm} needs a team with one reward, and {spec.id} has the sides "
                f"{', '.join(spec.sides)}: choose mappo or ippo"
            )
            raise UsageError(msg)
        settings = cast(ValueRecipe, recipe).q_learning
        agents = ActorCritic(spec, recipe.architecture, mask, rng)
        model = MixedAgents(agents, self.make_mixer(spec, settings, rng))
        return ValueTeam(model, ValueNorm(len(spec.sides)), settings.epsilon_end)

    def learner(self, team: Team, spec: EnvironmentSpec, recipe: TrainRecipe) -> Learner:
        """Return a learner from replayed episodes."""
        from kd_offline.experts.value_learner import ValueLearner, mean_squared_error
        from kd_offline.experts.value_team import ValueTeam

        recipe, loss = cast(ValueRecipe, recipe), self.loss or mean_squared_error
        return ValueLearner(cast(ValueTeam, team), recipe, loss, self.joint_critic(spec, recipe))

    def joint_critic(self, spec: EnvironmentSpec, recipe: ValueRecipe) -> JointCritic | None:
        """Return a new joint critic; None where the algorithm has none."""
        from kd_offline.experts.team import ActorCritic

        if self.make_critic is None:
            return None
        rng = generator(recipe.seed, "joint critic", 0)
        agents = ActorCritic(spec, recipe.architecture, None, rng)
        return self.make_critic(agents, recipe.q_learning, rng)


def mixer_shape(spec: EnvironmentSpec, settings: QLearning) -> MixerShape:
    """Return the sizes of a mixer for a task: the state is normalised."""
    from kd_offline.networks.mixers import MixerShape

    return MixerShape(
        agents=spec.n_agents,
        state=spec.state_width,
        embedding=settings.mixer_embedding,
        weights_hidden=settings.mixer_hidden,
        value_hidden=settings.mixer_embedding,
        normalised=True,
        actions=spec.action_count,
    )
