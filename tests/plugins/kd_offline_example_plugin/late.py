"""Observations that arrive late, as over a slow network."""

import numpy as np

from kd_offline.robustness.perturbations.base import Perturbation


class LateObservations(Perturbation):
    """Shows every observation some steps after it was made; before that the first one."""

    description = "observations that arrive late"
    unit = "the steps between an observation and its arrival"
    strengths = (1.0, 3.0)
    whole = True
    of_observations = True

    def start(self, seeds):
        """Return what is under way, float32 [B, steps, N, O]; nothing at first."""
        spec, steps = self.setting.spec, round(self.setting.strength)
        return {"waiting": np.zeros((len(seeds), steps, spec.n_agents, spec.obs_width), np.float32)}

    def observations(self, view, moment):
        """Return what arrives."""
        waiting = moment.kept["waiting"]
        if moment.step == 0:
            waiting = np.broadcast_to(view.obs[:, None], waiting.shape)
        moment.kept["waiting"] = np.concatenate([waiting[:, 1:], view.obs[:, None]], 1)
        return waiting[:, 0]
