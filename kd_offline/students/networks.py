"""Student teams: for every agent a mask, fixed input scaling, an aligner, and a small network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.networks.recurrent import NetworkShape, RecurrentNetwork
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.types import FloatArray


class StudentTeam(nn.Module):
    """One independent network per agent, without a critic.

    Observations are scaled by fixed statistics of the dataset and then masked, so a hidden feature
    is exactly zero for the network, and export can drop its column. ``mean`` and ``std``: [N, O].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: EnvironmentSpec,
        architecture: StudentArchitecture,
        widths: Sequence[int],
        rng: np.random.Generator,
        *,
        mask_as_input: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.widths = tuple(widths)
        self.mask_as_input = mask_as_input
        self.register_buffer("mean", torch.zeros(spec.n_agents, spec.obs_width))
        self.register_buffer("std", torch.ones(spec.n_agents, spec.obs_width))
        self.aligners = nn.ModuleList()
        self.networks = nn.ModuleList()
        for i, width in enumerate(widths):
            shape = agent_shape(spec, architecture, i, width, mask_as_input=mask_as_input)
            aligner: nn.Module = nn.Identity()
            if architecture.aligner == "linear":
                aligner = nn.Linear(shape.inputs, shape.inputs)
                nn.init.eye_(aligner.weight)
                nn.init.zeros_(aligner.bias)
            self.aligners.append(aligner)
            self.networks.append(RecurrentNetwork(shape, rng, head_gain=0.1))

    @property
    def shapes(self) -> list[NetworkShape]:
        """Architecture of each agent's network."""
        return [network.shape for network in self._agents()]

    @property
    def parameters_per_agent(self) -> list[int]:
        """Trainable numbers of each agent's deployed network; aligners fold into it."""
        return [sum(p.numel() for p in network.parameters()) for network in self.networks]

    def scale_inputs(self, mean: FloatArray, std: FloatArray) -> None:
        """Set the statistics that observations are scaled by, [N, O]; constants keep scale 1."""
        self.mean.copy_(torch.from_numpy(np.asarray(mean, np.float32)))
        steady = np.where(np.asarray(std) > 1e-6, std, 1.0)
        self.std.copy_(torch.from_numpy(steady.astype(np.float32)))

    def start(self, batch: int) -> list[Tensor]:
        """Return every agent's memory of ``batch`` fresh episodes."""
        return [network.start(batch) for network in self._agents()]

    def prepare(self, obs: Tensor, mask: Tensor) -> Tensor:
        """Scale and mask ``obs`` [..., N, O] by ``mask`` (float, broadcast against it)."""
        seen = (obs - self.mean) / self.std * mask
        return torch.cat([seen, mask.expand_as(seen)], -1) if self.mask_as_input else seen

    def forward(
        self, prepared: Tensor, memory: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run all agents over ``prepared``: float [T, B, N, O'].

        Returns logits [T, B, N, A] (zero where an agent has no such action), each agent's
        embedding [T, B, H_i] and the memories.
        """
        t, b = prepared.shape[:2]
        logits = []
        embeddings = []
        after = []
        for i, (aligner, network) in enumerate(zip(self.aligners, self._agents(), strict=True)):
            out, hidden, state = network(aligner(self._input(prepared, i)), memory[i])
            spare = self.spec.action_count - out.shape[-1]
            logits.append(nn.functional.pad(out, (0, spare)) if spare else out)
            embeddings.append(hidden)
            after.append(state)
        return torch.stack(logits, 2).view(t, b, self.spec.n_agents, -1), embeddings, after

    def _input(self, prepared: Tensor, agent: int) -> Tensor:
        width, padded = self.spec.obs_widths[agent], self.spec.obs_width
        mine = prepared[:, :, agent]
        if not self.mask_as_input:
            return mine[..., :width]
        return torch.cat([mine[..., :width], mine[..., padded : padded + width]], -1)

    def _agents(self) -> list[RecurrentNetwork]:
        return [n for n in self.networks if isinstance(n, RecurrentNetwork)]


def agent_shape(
    spec: EnvironmentSpec,
    architecture: StudentArchitecture,
    agent: int,
    width: int,
    *,
    mask_as_input: bool,
) -> NetworkShape:
    """Return the shape of one agent's network of a given hidden width."""
    inputs = spec.obs_widths[agent] * (2 if mask_as_input else 1)
    recurrent = width if architecture.kind == "gru" else None
    return NetworkShape(inputs, (width,) * architecture.depth, recurrent, spec.action_counts[agent])
