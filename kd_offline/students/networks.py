"""Student teams: for every agent a mask, fixed input scaling, an aligner, and a small network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.networks.arithmetic import (
    DeployedInputs,
    DeployedShape,
    StudentShape,
    sparse_of,
)
from kd_offline.networks.gru import steps_before
from kd_offline.networks.packed import Packed, PackedNetwork
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.layers import Widths
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.students.families import border, family_of, settings_of
from kd_offline.types import BoolArray, FloatArray, IntArray


class InputScale(NamedTuple):
    """Statistics of a dataset that inputs are scaled by, [N, O] each."""

    mean: FloatArray
    std: FloatArray
    motion: FloatArray  # deviation of the change from one step to the next


class StudentInputs(NamedTuple):
    """Inputs that are appended to the scaled and masked observation."""

    mask: bool = False
    motion: bool = False
    last_action: bool = False


class PackedInputs(NamedTuple):
    """Inputs of the agents of a team for packed sequences."""

    prepared: Tensor  # [S, N, O'], see :meth:`StudentTeam.prepare`
    last_actions: Tensor | None  # one-hot [S, N, A], zero in first steps; where students take it
    sizes: list[int]  # how many sequences have each step, never growing
    before: Tensor | None  # int64 [S], the row of the step before; None without motion


class TeamMemory(NamedTuple):
    """Memory of a team between steps."""

    hidden: list[Tensor]
    last: Tensor | None  # the prepared inputs of the step before, [1, B, N, O']; None at the start


class TeamOutputs(NamedTuple):
    """Outputs of a team's networks for the steps of a batch."""

    logits: Tensor  # [S, N, A], zero where an agent has no such action
    embeddings: Sequence[Tensor]  # of each agent [S, H_i]
    taps: Mapping[str, Sequence[Tensor]]  # by name, of each agent [S, W_i]


class AgentPass(Protocol):
    """Another forward pass through the weights of a team's networks."""

    def __call__(
        self, team: StudentTeam, i: int, x: Tensor, sizes: list[int], memory: Tensor
    ) -> Packed:
        """Run agent ``i`` over packed ``x`` [S, I]; as its network does, aligner included."""
        ...


class StudentTeam(nn.Module):
    """One independent network per agent, without a critic.

    Observations are scaled by fixed statistics of the dataset and then masked, so a hidden feature
    is exactly zero for the network, and export can drop its column. With ``motion`` the change of
    every feature since the step before is appended (zero at the first): a difference of two inputs
    that a small recurrent network could only approximate, and all that is missing of a hidden
    velocity. ``mean``, ``std`` and ``motion_std``: [N, O]. While ``stand_in`` is set, that computes
    the agents: with the weights of an int8 export, or with gates on their units.

    ``seen``: bool [N, O] is what a fixed mask leaves; None: everything. Nothing is computed of the
    other columns, whose weights stay as they were drawn.
    """

    mean: Tensor
    std: Tensor
    motion_std: Tensor

    def __init__(
        self,
        spec: EnvironmentSpec,
        architecture: StudentArchitecture,
        widths: Sequence[Widths],
        rng: np.random.Generator | None,
        inputs: StudentInputs,
        seen: BoolArray | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.widths = tuple(widths)
        self.inputs = inputs
        self.stand_in: AgentPass | None = None
        self.register_buffer("motion_std", torch.ones(spec.n_agents, spec.obs_width))
        self.register_buffer("mean", torch.zeros(spec.n_agents, spec.obs_width))
        self.register_buffer("std", torch.ones(spec.n_agents, spec.obs_width))
        visible = np.ones((spec.n_agents, spec.obs_width), bool) if seen is None else seen
        self.columns = [
            torch.from_numpy(np.flatnonzero(own[:width]))
            for own, width in zip(visible, spec.obs_widths, strict=True)
        ]
        self.aligners = nn.ModuleList()
        self.networks = nn.ModuleList()
        settings = settings_of(architecture)
        self.family = family_of(settings)
        self.border = border(settings.family)
        for i, each in enumerate(widths):
            shape = agent_shape(spec, settings, i, each, inputs)
            aligner: nn.Module = nn.Identity()
            if architecture.aligner == "linear":
                aligner = nn.Linear(shape.inputs, shape.inputs)
                nn.init.eye_(aligner.weight)
                nn.init.zeros_(aligner.bias)
            self.aligners.append(aligner)
            with self.border("network"):
                self.networks.append(self.family.network(shape, rng))
        self._first = [self._first_columns(i) for i in range(spec.n_agents)]

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.mean.device

    @property
    def shapes(self) -> list[StudentShape]:
        """Each agent's network in numbers."""
        return [self.network(i).shape for i in range(len(self.widths))]

    @property
    def parameters_per_agent(self) -> list[int]:
        """Trainable numbers of each agent's deployed network; aligners fold into it.

        Zeros of sparse matrices are none.
        """
        return [
            sum(p.numel() for p in network.parameters()) - _zeros(network)
            for network in map(self.network, range(len(self.widths)))
        ]

    def network(self, i: int) -> PackedNetwork:
        """Return the network of agent ``i``."""
        found = self.networks[i]
        assert isinstance(found, PackedNetwork)  # noqa: S101 - nn.ModuleList forgets it
        return found

    def scale_inputs(self, scale: InputScale) -> None:
        """Set the statistics that inputs are scaled by; constant features keep scale 1."""
        self.mean.copy_(torch.from_numpy(np.asarray(scale.mean, np.float32)))
        std = _steady(scale.std)
        self.std.copy_(std)
        self.motion_std.copy_(_steady(scale.motion / std.numpy()))

    def start(self, batch: int) -> TeamMemory:
        """Return the memory of ``batch`` fresh episodes."""
        return TeamMemory([self._fresh(i, batch) for i in range(len(self.widths))], None)

    def prepare(self, obs: Tensor, mask: Tensor) -> Tensor:
        """Scale and mask ``obs`` [..., N, O] by ``mask`` (float, broadcast against it)."""
        # In place: of wide observations every further copy costs more than the arithmetic.
        seen = (obs - self.mean).div_(self.std).mul_(mask)
        return torch.cat([seen, mask.expand_as(seen)], -1) if self.inputs.mask else seen

    def forward(
        self, prepared: Tensor, memory: TeamMemory, last_actions: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], TeamMemory]:
        """Run all agents over ``prepared``: float [T, B, N, O'].

        ``last_actions``: one-hot float [T, B, N, A], zero in an episode's first step; needed where
        the students take it. Returns logits [T, B, N, A] (zero where an agent has no such action),
        each agent's embedding [T, B, H_i] and the memory.
        """
        steps, batch = prepared.shape[:2]
        taken = None if last_actions is None else last_actions.flatten(0, 1)
        inputs = self.packed(prepared.flatten(0, 1), taken, [batch] * steps)
        last = None if memory.last is None else memory.last[0]
        each = [self.agent(i, inputs, own[0], last) for i, own in enumerate(memory.hidden)]
        hidden = [own.memory[-batch:].unsqueeze(0) for own in each]
        shown = [own.embedding.view(steps, batch, -1) for own in each]
        joined = self.joined([own.outputs.view(steps, batch, -1) for own in each])
        return joined, shown, TeamMemory(hidden, prepared[-1:])

    def packed(
        self, prepared: Tensor, last_actions: Tensor | None, sizes: list[int]
    ) -> PackedInputs:
        """Return the inputs of :meth:`agent` from packed ``prepared`` [S, N, O']."""
        before = steps_before(sizes, prepared.device) if self.inputs.motion else None
        return PackedInputs(prepared, last_actions, sizes, before)

    def agent(
        self,
        i: int,
        inputs: PackedInputs,
        memory: Tensor | None = None,
        last: Tensor | None = None,
    ) -> Packed:
        """Run only agent ``i`` over packed steps.

        ``memory``: [B, H_i] and ``last``: [B, N, O'], what was prepared for the step before; None
        for whole episodes.
        """
        network, own = self.network(i), self._own_inputs(i, inputs, last)
        memory = self._fresh(i, inputs.sizes[0])[0] if memory is None else memory
        columns = self._first_of(i, own.device)
        plain = self.stand_in is None and isinstance(self.aligners[i], nn.Identity)
        if columns is not None and not (plain and self.family.drops_columns):
            own = own.new_zeros(len(own), network.shape.inputs).index_copy(1, columns, own)
            columns = None
        if self.stand_in is not None:
            return self.stand_in(self, i, own, inputs.sizes, memory)
        with self.border("packed"):
            return network.packed(self.aligners[i](own), inputs.sizes, memory, columns)

    def network_inputs(
        self, prepared: Tensor, last_actions: Tensor | None, before: Tensor
    ) -> list[Tensor]:
        """Return the inputs of each agent's network, [S, I], zero for hidden features.

        As in :class:`PackedInputs`; ``before`` is used where students take motion.
        """
        given = PackedInputs(prepared, last_actions, [], before if self.inputs.motion else None)
        found = []
        for i, shape in enumerate(self.shapes):
            own = self._own_inputs(i, given, None)
            columns = self._first_of(i, own.device)
            if columns is not None:
                own = own.new_zeros(len(own), shape.inputs).index_copy(1, columns, own)
            found.append(own)
        return found

    def outputs(self, agents: Sequence[Packed]) -> TeamOutputs:
        """Return the outputs of all agents that losses read."""
        logits = self.joined([own.outputs for own in agents])
        taps = {name: [own.taps[name] for own in agents] for name in agents[0].taps}
        return TeamOutputs(logits, [own.embedding for own in agents], taps)

    def joined(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the logits of all agents as [..., N, A], the actions outermost in memory."""
        spare = [self.spec.action_count - out.shape[-1] for out in logits]
        padded = [
            nn.functional.pad(out, (0, more)) if more else out
            for out, more in zip(logits, spare, strict=True)
        ]
        return torch.stack([out.movedim(-1, 0) for out in padded], -1).movedim(0, -1)

    def _fresh(self, i: int, batch: int) -> Tensor:
        """Return the memory of agent ``i`` in fresh episodes, [1, B, M]."""
        with self.border("start"):
            return self.network(i).start(batch)

    def _own_inputs(self, i: int, inputs: PackedInputs, last: Tensor | None) -> Tensor:
        """Return what agent ``i`` takes, [S, I]: its visible columns, their bits and changes."""
        padded = self.spec.obs_width
        seen = self._visible(inputs.prepared[..., :padded], i)
        parts = [seen]
        if self.inputs.mask:
            parts.append(self._visible(inputs.prepared[..., padded:], i))
        if inputs.before is not None:
            before = seen.index_select(0, inputs.before)
            if last is not None:
                before[: len(last)] = self._visible(last[..., :padded], i)
            scale = self.motion_std[i, self.columns[i].to(seen.device)]
            # In place, as in prepare; a gradient by observations needs what was there.
            out = None if seen.requires_grad else before
            parts.append(torch.sub(seen, before, out=out).div_(scale))
        if inputs.last_actions is not None and self.inputs.last_action:
            parts.append(inputs.last_actions[:, i, : self.spec.action_counts[i]])
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _visible(self, values: Tensor, i: int) -> Tensor:
        """Return what agent ``i`` sees of ``values`` [S, N, O], a view where that is everything."""
        own, columns = values[:, i], self.columns[i]
        if len(columns) == own.shape[1]:
            return own
        return own.index_select(1, columns.to(own.device))

    def _first_of(self, i: int, device: torch.device) -> Tensor | None:
        columns = self._first[i]
        return None if columns is None else columns.to(device)

    def _first_columns(self, i: int) -> Tensor | None:
        """Return which columns of the first matrix of agent ``i`` count; None: all."""
        columns, width = self.columns[i], self.spec.obs_widths[i]
        if len(columns) == width:
            return None
        copies = 1 + self.inputs.mask + self.inputs.motion
        rest = torch.from_numpy(np.arange(copies * width, self.network(i).shape.inputs))
        return torch.cat([*(columns + k * width for k in range(copies)), rest])


def agent_shape(
    spec: EnvironmentSpec,
    architecture: StudentArchitecture,
    agent: int,
    widths: Widths,
    inputs: StudentInputs,
) -> StudentShape:
    """Return one agent's network of given hidden widths in numbers."""
    columns = spec.obs_widths[agent] * (1 + inputs.mask + inputs.motion)
    columns += spec.action_counts[agent] if inputs.last_action else 0
    settings = settings_of(architecture)
    with border(settings.family)("shape"):
        shape: StudentShape = family_of(settings).shape(
            settings, widths, columns, spec.action_counts[agent]
        )
    return shape


def exported_shape(
    shape: StudentShape, inputs: StudentInputs, features: int, *, drawn: bool
) -> DeployedShape:
    """Return a network as it is exported, from ``features`` that its mask leaves.

    The columns that a fixed mask hides are dropped, and its bits, which never change, are part of
    a bias. Under a mask that is ``drawn`` for each episode every column is needed.
    """
    given = DeployedInputs(
        features, shape.outputs, inputs.motion, inputs.mask and drawn, inputs.last_action
    )
    return shape.deployed(given)


def one_hot(actions: IntArray | None, shape: tuple[int, ...]) -> Tensor:
    """Return one-hot ``actions`` (int [...]) as float ``shape`` [..., A]; None gives zeros."""
    out = torch.zeros(shape)
    return out if actions is None else out.scatter_(-1, torch.from_numpy(actions).unsqueeze(-1), 1)


def _zeros(network: PackedNetwork) -> int:
    if sparse_of(network.shape) is None:
        return 0
    return sum(int((matrix == 0).sum()) for matrix in network.matrices())


def _steady(deviation: FloatArray) -> Tensor:
    return torch.from_numpy(np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32))
