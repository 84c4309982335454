"""Kickstarting (Schmitt et al., 2018, arXiv 1803.03835): a policy follows a teacher at first.

Where a task is hardly ever won by chance, learning by reward alone stays with what earns a little.
A teacher, such as a script, shows what else there is; what the policy makes of it once the teacher
is gone is its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kd_offline.experts.algorithms.clipped_policy import Kickstart
from kd_offline.experts.load import load
from kd_offline.experts.ppo import Pull
from kd_offline.experts.protocol import Expert
from kd_offline.rollout.active_episodes import ActiveEpisodePolicy
from kd_offline.rollout.collect import Trajectories
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import SeedArray


@dataclass(frozen=True, slots=True)
class Teacher:
    """An expert that is asked what it would do in what another policy plays."""

    expert: Expert
    settings: Kickstart

    @classmethod
    def of(
        cls, settings: Kickstart | None, spec: EnvironmentSpec, opponents: str | None = None
    ) -> Teacher | None:
        """Return the teacher that a recipe names, if it names one.

        ``opponents`` are those of the recipe, who may be the teacher's as well.

        Raises
        ------
        CheckpointError, MismatchError, UnknownNameError, UsageError
            There is no such expert, or it cannot be used here.
        """
        if settings is None:
            return None
        known = () if opponents is None else (opponents,)
        teacher = load(settings.teacher, spec, with_value=False, opponents=known)
        return cls(teacher, settings)

    def pull(self, played: Trajectories, seeds: SeedArray, frames: int) -> Pull | None:
        """Ask what it would have done in ``played``, before which ``frames`` steps were played.

        ``seeds``, uint64 [B], are those of the episodes. None once its time is over.
        """
        left = 1 - frames / self.settings.frames
        if left <= 0:
            return None
        asked = ActiveEpisodePolicy.begin(self.expert, seeds)
        said = [asked.act(played.view(t), now).logits for t, now in enumerate(played.valid)]
        legal = torch.from_numpy(played.steps["available_actions"])
        masked = torch.from_numpy(np.stack(said)).masked_fill(~legal, -1e10)
        return Pull(self.settings.weight * left, torch.log_softmax(masked, -1))
