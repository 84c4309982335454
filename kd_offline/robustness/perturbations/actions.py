"""Perturbed actions: executed late, or repeated."""

from __future__ import annotations

import numpy as np

from kd_offline.robustness.perturbations.base import Moment, Perturbation, idle, legal_actions
from kd_offline.seeding import uniforms
from kd_offline.types import Array, IntArray, PolicyOutput, SeedArray, View


class Delay(Perturbation):
    """Carries out every action some steps after it was chosen; before that agents do nothing."""

    description = "actions that are carried out late"
    unit = "the steps between choice and action"
    strengths = (1.0, 2.0)
    whole = True

    def start(self, seeds: SeedArray) -> dict[str, Array]:
        """Return the actions that wait, int64 [B, steps, N]; -1 where none does."""
        steps = min(self.setting.strength, self.setting.spec.episode_limit)  # then nothing is done
        shape = (len(seeds), round(steps), self.setting.spec.n_agents)
        return {"waiting": np.full(shape, -1, np.int64)}

    def actions(
        self, chosen: IntArray, output: PolicyOutput, view: View, moment: Moment
    ) -> IntArray:
        """Return the actions that were chosen earlier, or actions that do nothing."""
        queue = np.concatenate([moment.kept["waiting"], chosen[:, None]], 1)
        moment.kept["waiting"] = queue[:, 1:]
        nothing = idle(self.setting.spec, view.available_actions)
        return np.where(queue[:, 0] < 0, nothing, queue[:, 0])


class Sticky(Perturbation):
    """Lets agents repeat their last action with a probability (Machado et al., 2018)."""

    description = "the last action again, in the place of the chosen one"
    unit = "the probability of each agent and step"
    strengths = (0.1, 0.25)
    largest = 1.0

    def start(self, seeds: SeedArray) -> dict[str, Array]:
        """Return the last actions, int64 [B, N]; -1 before the first."""
        return {"last": np.full((len(seeds), self.setting.spec.n_agents), -1, np.int64)}

    def actions(
        self, chosen: IntArray, output: PolicyOutput, view: View, moment: Moment
    ) -> IntArray:
        """Return the executed actions: the chosen ones, or the last ones."""
        last = moment.kept["last"]
        draws = uniforms(moment.seeds, moment.step, last.shape[1:], "audit", "sticky")
        repeats = (draws < self.setting.strength) & (last >= 0)
        taken = legal_actions(
            self.setting.spec, np.where(repeats, last, chosen), view.available_actions
        )
        moment.kept["last"] = taken
        return taken
