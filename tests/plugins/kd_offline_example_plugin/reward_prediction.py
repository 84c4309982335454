"""Students also predict the next reward, as an auxiliary task (UNREAL, Jaderberg et al., 2017)."""

import numpy as np
import torch
from pydantic import Field
from torch import nn

from kd_offline.distillation.dataset_statistics import Deviation, Moments
from kd_offline.distillation.terms.base import Elements, LossTerm, TermSettings


class RewardPredictionSettings(TermSettings):
    """Settings, by their paths ``terms.reward_prediction.*``."""

    limit: float = Field(default=3.0, gt=0, description="of rewards, in deviations")


class RewardPrediction(LossTerm[RewardPredictionSettings]):
    """Half the squared error of a linear head on each agent's embedding."""

    description = "prediction of the next reward from each student's embedding"
    settings_type = RewardPredictionSettings

    def arrays(self, present):
        """Return what is read of the dataset."""
        return ["steps/reward"]

    def fit(self, episodes):
        """Collect the mean and deviation of every agent's rewards."""
        return RewardMoments()

    def targets(self, batch):
        """Return rewards in deviations, [B, T, N]; ``statistics`` is what ``fit`` gave."""
        reward = self.statistics.normalised(torch.from_numpy(batch.arrays["steps/reward"]))
        return {"reward": reward.clamp(-self.settings.limit, self.settings.limit)}

    def auxiliary_heads(self, widths, spec, rng):
        """Return one linear layer an agent, its weights drawn from ``rng`` alone."""
        heads = [nn.Linear(width, 1) for width in widths]
        for head in heads:
            drawn = rng.normal(0.0, 0.1, head.weight.shape).astype(np.float32)
            with torch.no_grad():
                head.weight.copy_(torch.from_numpy(drawn))
                head.bias.zero_()
        return nn.ModuleList(heads)

    def loss(self, students, targets, heads):
        """Return the error of every agent that is alive, [S, N]."""
        each = zip(heads, students.embeddings, strict=True)
        predicted = torch.cat([head(embedding) for head, embedding in each], -1)
        return Elements((predicted - targets["reward"]).square() / 2, students.alive)


class RewardMoments:
    """Collects moments in one pass over the training episodes."""

    arrays = ("steps/reward",)

    def __init__(self):
        self.found = Deviation(axes=(0, 1))

    def add(self, batch):
        """Count in a batch of whole episodes."""
        self.found.add(batch.arrays["steps/reward"], batch.alive)

    def finish(self):
        """Return the mean and deviation."""
        return Moments.of(self.found)
