"""The values of all agents and a mixer as the team's value, in the form that recordings keep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kd_offline.networks.mixers import JointAction, Mixer
from kd_offline.types import Float32Array, IntArray, PolicyOutput


@dataclass(frozen=True, slots=True)
class TeamValue:
    """What a team's actions are worth in one view.

    ``q``: float [B, N, A] and ``state``: float [B, S] are in the mixer's own units, of which
    ``scale`` makes raw ones. ``available``: bool [B, N, A], legal actions. Agents that do not count
    (``counts``: bool [B, N]) enter the mixer as zero, whatever they do.
    """

    mixer: Mixer
    q: Tensor
    state: Tensor
    counts: Tensor
    available: Tensor
    scale: float = 1.0

    @torch.inference_mode()
    def best(self) -> Float32Array:
        """Return the value of the greedy legal actions, float32 [B]."""
        return self._raw(self.mixer(self._greedy(), self.state))

    @torch.inference_mode()
    def of(self, actions: IntArray) -> tuple[Float32Array, Float32Array]:
        """Return what ``actions`` [B, N] are worth, [B], and each agent's credit, [B, N].

        Credit is d q_tot / d q_i at these actions: how much the team's value rises with the
        agent's own. An agent that does not count has none.
        """
        index = torch.from_numpy(actions).long().clamp(0, self.q.shape[-1] - 1)
        taken = self.q.gather(-1, index.unsqueeze(-1)).squeeze(-1) * self.counts
        joint = JointAction(index.masked_fill(~self.counts, -1), self._greedy())
        credit = self.mixer.credit(taken, self.state, joint) * self.counts
        return self._raw(self.mixer(taken, self.state, joint)), credit.numpy()

    def output(self, logits: Float32Array, embedding: Float32Array) -> PolicyOutput:
        """Return what a policy says whose agents act by these values.

        The value of a view is that of the greedy actions, for every agent alike: what the team
        expects when it goes on greedily. See docs/decisions/007-value-experts.md.
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
        return (values * self.scale).float().numpy()


def best_legal(q: Tensor, available: Tensor) -> Tensor:
    """Return the largest legal value of every agent: [..., N, A] to [..., N]; 0 without any."""
    top = q.masked_fill(~available, -torch.inf).amax(-1)
    return top.masked_fill(~available.any(-1), 0.0)
