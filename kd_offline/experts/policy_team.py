"""Actors and critics after training: the actors act, the critics estimate values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_offline.experts.ppo import ValueNorm
from kd_offline.experts.team import ActorCritic, Memory
from kd_offline.experts.views import Seen
from kd_offline.networks.arithmetic import ValuePart
from kd_offline.networks.recurrent import RecurrentNetwork
from kd_offline.types import IntArray, PolicyOutput, SeedArray, TeamPolicy, View

NORM = "value_norm"
"""Name of the value normalisation among weights; files of the first versions have none."""


class NetworkPolicy:
    """Actors, and critics if ``with_value``, as a :class:`~kd_offline.types.TeamPolicy`."""

    def __init__(self, model: ActorCritic, norm: ValueNorm, *, with_value: bool = True) -> None:
        self._model = model
        self._norm = norm
        self._with_value = with_value

    @property
    def needs_full(self) -> bool:
        """Whether it acts by full observations."""
        return self._model.needs_full

    def start(self, seeds: SeedArray) -> Memory:
        """Return the memory at the start of episodes."""
        return self._model.start(len(seeds))

    @torch.inference_mode()
    def act(self, view: View, memory: Memory) -> tuple[PolicyOutput, Memory]:
        """Return logits, embeddings and values in raw reward units."""
        device, last = self._model.device, view.last_actions
        seen = Seen.of(view, device)
        last_actions = None if last is None else torch.from_numpy(last).to(device)
        said = self._model.act(seen, memory, last_actions)
        memory, value = said.memory, None
        if self._with_value:
            normal, memory = self._model.value(seen, memory)
            mean, deviation = self._norm.statistics(self._model.side_of)
            value = (normal.cpu() * deviation + mean).numpy()
        logits, embedding = said.logits.cpu().numpy(), said.embedding.cpu().numpy()
        taps = {name: values.cpu().numpy() for name, values in said.taps.items()}
        return PolicyOutput(logits, embedding, value, taps=taps), memory

    @property
    def differentiable(self) -> bool:
        """Whether it acts by observations, by which its logits have a gradient."""
        return self._model.architecture.view == "local"

    def differentiable_logits(self, obs: Tensor, view: View, memory: Memory) -> Tensor:
        """Return the logits [B, N, A] for ``obs`` [B, N, O], with a graph; memory is kept."""
        return self._model.differentiable_logits(obs, view, memory)

    def keep(self, memory: Memory, episodes: IntArray) -> Memory:
        """Return the memory of some episodes of a batch."""
        return self._model.keep(memory, episodes)


@dataclass(frozen=True, slots=True)
class PolicyTeam:
    """Actors and critics of one team; ``norm`` converts the critics' outputs to raw values."""

    model: ActorCritic
    norm: ValueNorm

    @property
    def actors(self) -> ActorCritic:
        """The networks that act."""
        return self.model

    def weights(self) -> dict[str, Tensor]:
        """Return the content of ``weights.safetensors``."""
        return {**self.model.state_dict(), NORM: self.norm.moments}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load what :meth:`weights` returned and freeze the networks."""
        load_frozen(self.model, self.norm, weights)

    def to(self, device: torch.device) -> None:
        """Compute on ``device`` from now on; the value normalisation stays on the processor."""
        self.model.to(device)

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of the actors and of the critics."""
        return self.model.parameter_counts()

    def policy(self, *, with_value: bool = True) -> TeamPolicy:
        """Return the policy of the finished expert."""
        return NetworkPolicy(self.model, self.norm, with_value=with_value)

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return the cost of each critic, which runs once for a side or for each agent."""
        model = self.model
        calls = [1] * len(model.critics) if model.central else [len(g.agents) for g in model.groups]
        return tuple(
            ValuePart(critic.shape.cost(), times)
            for critic, times in zip(model.critics, calls, strict=True)
            if isinstance(critic, RecurrentNetwork)
        )


def load_frozen(model: nn.Module, norm: ValueNorm, weights: Mapping[str, Tensor]) -> None:
    """Load networks and their normalisation from weights, and freeze them."""
    tensors = dict(weights)
    norm.moments = tensors.pop(NORM, norm.moments)
    model.load_state_dict(tensors)
    model.requires_grad_(False).eval()
