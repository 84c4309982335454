"""What VDN and QMIX do with a batch of episodes: keep it, and learn from many like it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch

from kd_offline.advantage import side_mean
from kd_offline.experts import q_learning
from kd_offline.experts.policy_learner import Figures
from kd_offline.experts.ppo import ValueNorm
from kd_offline.experts.replay import Replay
from kd_offline.experts.value_team import ValuePolicy, ValueTeam, unit
from kd_offline.schemas.expert import ExpertCard, QLearning
from kd_offline.seeding import generator
from kd_offline.trajectories import Trajectories
from kd_offline.types import TeamPolicy


@dataclass(slots=True)
class ValueLearner:
    """Q-learning of a team from replayed episodes.

    Rewards are divided by one number, the deviation of the returns of the first batch, so that
    settings carry over from one task to another. It is kept in ``norm``.
    """

    card: ExpertCard
    model: ValueTeam
    norm: ValueNorm
    optimiser: torch.optim.Optimizer
    replay: Replay = field(init=False)
    targets: ValueTeam = field(init=False)

    def __post_init__(self) -> None:
        self.replay = Replay(self._settings.buffer_episodes)
        self.targets = copy.deepcopy(self.model).requires_grad_(False)

    @property
    def against(self) -> str:
        """There are no opponents."""
        return "itself"

    @property
    def _settings(self) -> QLearning:
        return self.model.settings

    def policy(self, frames: int) -> TeamPolicy:
        """Return who plays the batch before which ``frames`` joint steps were played."""
        return ValuePolicy(self.model, self.norm, self._epsilon(frames), with_value=False)

    def learn(self, played: Trajectories, iteration: int, frames: int) -> Figures:
        """Keep batch ``iteration`` and learn from the replay."""
        recipe, settings = self.card.recipe, self._settings
        if iteration == 0:
            self._measure(played)
        self.replay = self.replay.added(played)
        rng, scale = generator(recipe.seed, "replay", iteration), unit(self.norm)
        rows = []
        for k in range(settings.updates_per_batch):
            batch = self.replay.sample(settings.batch_episodes, rng)
            rows.append(
                q_learning.update(self.model, self.targets, self.optimiser, batch, recipe, scale)
            )
            if (iteration * settings.updates_per_batch + k + 1) % settings.target_every == 0:
                self.targets.load_state_dict(self.model.state_dict())
        return {
            "epsilon": self._epsilon(frames),
            "td_loss": float(np.mean([row.td_loss for row in rows])) ** 0.5 * scale,
            "q_tot": float(np.mean([row.q_tot for row in rows])) * scale,
            "target": float(np.mean([row.target for row in rows])) * scale,
        }

    def _epsilon(self, frames: int) -> float:
        """Return the probability of a random action after ``frames`` joint steps."""
        settings = self._settings
        share = min(1.0, frames / settings.epsilon_frames)
        return settings.epsilon_start + share * (settings.epsilon_end - settings.epsilon_start)

    def _measure(self, played: Trajectories) -> None:
        """Take the spread of the discounted returns of the first batch as the unit of values."""
        steps = {name: torch.from_numpy(values) for name, values in played.steps.items()}
        valid = torch.from_numpy(played.valid)
        reward = side_mean(steps["reward"], self.model.side_of)[..., 0] * valid
        returns = q_learning.lambda_returns(
            reward,
            torch.zeros(len(reward) + 1, reward.shape[1]),
            steps["terminated"] & valid,
            steps["truncated"] & valid,
            gamma=self.card.recipe.gamma,
            td_lambda=1.0,
            bootstrap_on_truncation=False,
        )
        side = torch.zeros(1, dtype=torch.int64)
        self.norm.update(returns.unsqueeze(-1), valid.unsqueeze(-1).float(), side)
