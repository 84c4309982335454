"""The team's value from the values of all agents and a mixer, as recordings store it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kd_offline.networks.mixers import JointAction, Mixer
from kd_offline.types import Float32Array, IntArray, PolicyOutput


@dataclass(frozen=True, slots=True)
class TeamValue:
    """Action values of a team for one view.

    ``q``: float [B, N, A] and ``state``: float [B, S] are in the mixer's own units; ``scale``
    converts to raw reward units. ``available``: bool [B, N, A], legal actions. Agents that do not
    count (``counts``: bool [B, N]) enter the mixer as zero.
    """

    mixer: Mixer
    q: Tensor
    state: Tensor
    counts: Tensor
    available: Tensor
    scale: float = 1.0

    @torch.inference_mode()
    def best(self) -> Float32Array:
        """Return the team value of the greedy legal actions, float32 [B]."""
        return self._raw(self.mixer(self._greedy(), self.state))

    @torch.inference_mode()
    def of(self, actions: IntArray) -> tuple[Float32Array, Float32Array]:
        """Return the team value of ``actions`` [B, N], [B], and each agent's credit, [B, N].

        Credit is d q_tot / d q_i at these actions: how much the team value increases with the
        agent's own value. It is 0 for an agent that does not count.
        """
        index = torch.from_numpy(actions).to(self.q.device).long().clamp(0, self.q.shape[-1] - 1)
        chosen_values = self.q.gather(-1, index.unsqueeze(-1)).squeeze(-1) * self.counts
        joint = JointAction(index.masked_fill(~self.counts, -1), self._greedy())
        credit = self.mixer.credit(chosen_values, self.state, joint) * self.counts
        return self._raw(self.mixer(chosen_values, self.state, joint)), credit.cpu().numpy()

    def output(self, logits: Float32Array, embedding: Float32Array) -> PolicyOutput:
        """Return the outputs of a policy that acts by these values.

        The value of a view is that of the greedy actions, the same for every agent: the expected
        return of greedy play. See docs/decisions/007-value-experts.md.
        """
        best = self.best()
        agents = self.q.shape[1]
        return PolicyOutput(
            logits=logits,
            embedding=embedding,
            value=best[:, None].repeat(agents, axis=1),
            q_values=self._raw(self.q),
            q_tot_max=best,
            mix=self.of,
        )

    def _greedy(self) -> Tensor:
        return best_legal(self.q, self.available) * self.counts

    def _raw(self, values: Tensor) -> Float32Array:
        return (values * self.scale).float().cpu().numpy()


def best_legal(q: Tensor, available: Tensor) -> Tensor:
    """Return the largest legal value of each agent: [..., N, A] to [..., N]; 0 without one."""
    largest = q.masked_fill(~available, -torch.inf).amax(-1)
    return largest.masked_fill(~available.any(-1), 0.0)
