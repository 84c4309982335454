"""Team-mates that fail: dead, frozen, random or adversarial agents, drawn for every episode."""

from __future__ import annotations

import numpy as np

from kd_offline import distributions
from kd_offline.errors import UsageError
from kd_offline.robustness.perturbations.base import (
    Moment,
    Perturbation,
    Setting,
    chosen_agents,
    idle,
    legal_actions,
)
from kd_offline.robustness.perturbations.observations import first_steps
from kd_offline.seeding import uniforms
from kd_offline.types import Array, IntArray, PolicyOutput, SeedArray, View


class _Teammates(Perturbation):
    """Base of perturbations of whole agents; which they are is drawn for every episode."""

    unit = "the number of such agents of a side"
    strengths = (1.0,)
    whole = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        most = max(map(len, setting.spec.sides.values()))
        if setting.strength > most:
            msg = (
                f"{setting.strength:g} agents of a side cannot fail: no side of "
                f"{setting.spec.id} has more than {most}; give {most} or fewer"
            )
            raise UsageError(msg)

    def start(self, seeds: SeedArray) -> dict[str, Array]:
        """Return which agents fail, bool [B, N]."""
        # One purpose for all kinds, so that the same agents fail under each of them.
        draws = uniforms(seeds, 0, (self.setting.spec.n_agents,), "audit", "team-mates")
        return {"fails": chosen_agents(self.setting, draws)}

    def actions(
        self, chosen: IntArray, output: PolicyOutput, view: View, moment: Moment
    ) -> IntArray:
        """Return the actions of :meth:`failed` for the agents that fail."""
        failed = self.failed(chosen, output, view, moment)
        return np.where(moment.kept["fails"], failed, chosen)

    def failed(
        self, chosen: IntArray, output: PolicyOutput, view: View, moment: Moment
    ) -> IntArray:
        """Return what agents do that fail, int64 [B, N]."""
        raise NotImplementedError


class Dead(_Teammates):
    """Agents that do nothing; where they have no such action, they take the lowest legal one."""

    description = "team-mates that do nothing from the first step on"

    def failed(
        self, chosen: IntArray, output: PolicyOutput, view: View, moment: Moment
    ) -> IntArray:
        """Return the action that does nothing."""
        return idle(self.setting.spec, view.available_actions)


class Frozen(_Teammates):
    """Agents that repeat one action from an early step on."""

    description = "team-mates that repeat their action of one early step from then on"

    def start(self, seeds: SeedArray) -> dict[str, Array]:
        """Return which agents fail, since when, and what they did last."""
        draws = uniforms(seeds, 0, (self.setting.spec.n_agents,), "audit", "frozen")
        since = first_steps(draws, self.setting.spec.episode_limit)
        return {**super().start(seeds), "since": since, "last": np.zeros_like(since)}

    def failed(
        self, chosen: IntArray, output: PolicyOutput, view: View, moment: Moment
    ) -> IntArray:
        """Return their actions of the step in which they froze."""
        frozen = moment.step > moment.kept["since"]
        held = np.where(frozen, moment.kept["last"], chosen)
        moment.kept["last"] = held
        return legal_actions(self.setting.spec, held, view.available_actions)


class RandomAgents(_Teammates):
    """Agents that draw their legal actions uniformly."""

    description = "team-mates that draw legal actions uniformly"

    def failed(
        self, chosen: IntArray, output: PolicyOutput, view: View, moment: Moment
    ) -> IntArray:
        """Return drawn actions."""
        even = distributions.played(self.setting.spec).even(view.available_actions)
        draws = uniforms(moment.seeds, moment.step, chosen.shape[1:], "audit", "random")
        return np.asarray(even.sample(draws), np.int64)


class Adversarial(_Teammates):
    """Agents that take the legal action which their own policy holds for the worst.

    That is the one of least Q-value where the policy has Q-values, and of least probability
    elsewhere; of equal ones the lowest.
    """

    description = "team-mates that take the legal action which their own policy holds for the worst"

    def failed(
        self, chosen: IntArray, output: PolicyOutput, view: View, moment: Moment
    ) -> IntArray:
        """Return the worst actions."""
        worth = output.logits if output.q_values is None else output.q_values
        return np.asarray(np.where(view.available_actions, worth, np.inf).argmin(-1), np.int64)
