"""Teams of several seeds computed at once: one matrix product instead of one for each team.

Values of all seeds stand in one tensor whose first axis is the seed. Every seed keeps its own
weights, batches and figures, so that what comes out is what each seed alone would give, up to
rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.episode_targets import EpisodeTargets
from kd_offline.distillation.targets import PackedTargets, Targets, is_outermost
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.distillation.terms.base import Elements, StudentBatch
from kd_offline.networks.packed import PackedNetwork, Stacked
from kd_offline.networks.stacked import StackedAffine, stacked_module
from kd_offline.students.networks import StudentTeam, TeamOutputs


class StackedBatch(NamedTuple):
    """A batch of each of K seeds: of episodes padded to T steps, B of them for every seed.

    ``targets`` are those of :class:`~kd_offline.distillation.targets.Targets` with [K, T, B] in
    place of [S]; behind an episode's end all weights are 0.
    """

    targets: Targets

    @classmethod
    def of(cls, batches: Sequence[PackedTargets]) -> StackedBatch:
        """Pad the batches of all seeds and lay them side by side."""
        steps = max(len(batch.sizes) for batch in batches)
        padded = [_padded(batch, steps) for batch in batches]
        stacked = {}
        for name, first in padded[0].items():
            every = [tensors[name] for tensors in padded]
            if is_outermost(name, first[0]):
                stacked[name] = torch.stack([x.movedim(-1, 0) for x in every], 1).movedim(0, -1)
            else:
                stacked[name] = torch.stack(every)
        return cls(Targets.of(stacked))


def _padded(batch: PackedTargets, steps: int) -> dict[str, Tensor]:
    """Return all targets [T, B, ...]."""
    tensors, sizes = batch.targets.tensors(), batch.sizes
    width = sizes[0]
    if sizes == [width] * steps:
        return {name: x.view(steps, width, *x.shape[1:]) for name, x in tensors.items()}
    device = batch.targets.weight.device
    number = torch.arange(width, device=device)
    ends = torch.tensor(sizes + [0] * (steps - len(sizes)), device=device)
    there = number < ends.unsqueeze(-1)
    rows = torch.where(there, (ends.cumsum(0) - ends).unsqueeze(-1) + number, 0).flatten()
    out = {}
    for name, values in tensors.items():
        if is_outermost(name, values):
            taken = values.movedim(-1, 0).index_select(1, rows).movedim(0, -1)
        else:
            taken = values.index_select(0, rows)
        out[name] = taken.view(steps, width, *taken.shape[1:])
        # Behind an end everything is 0, every weight of a term too, and any action legal.
        behind = ~there.view(steps, width, *[1] * (out[name].ndim - 2))
        out[name].masked_fill_(behind, name == "available")
    return out


class _Stack(nn.Module):
    """Agents of one shape of K teams, seed after seed for each agent."""

    def __init__(self, networks: Sequence[PackedNetwork], aligners: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks, self.aligners = stacked_module(networks), stacked_module(aligners)

    def forward(self, x: Tensor) -> Stacked:
        """Run all networks on ``x`` [T, M, I, B]."""
        if isinstance(self.aligners, nn.Linear):
            x = StackedAffine.of(self.aligners)(x)
        return self.networks.stacked(x)


class StackedTeams(nn.Module):
    """Teams of one design, each of its own seed; ``teams`` read their weights from here.

    Their networks have :meth:`~kd_offline.networks.packed.PackedNetwork.stacked`.
    """

    def __init__(self, teams: Sequence[StudentTeam]) -> None:
        super().__init__()
        self.teams = tuple(teams)
        first = teams[0]
        self.spec, self.shapes = first.spec, first.shapes
        agents: dict[Any, list[int]] = {}
        for i, shape in enumerate(self.shapes):
            agents.setdefault(shape, []).append(i)
        self.agents = list(agents.values())
        self.stacks = nn.ModuleList(
            _Stack(
                [team.network(i) for i in group for team in teams],
                [team.aligners[i] for i in group for team in teams],
            )
            for group in self.agents
        )

    def part(self) -> None:
        """Copy the weights so that every team has its own."""
        for team in self.teams:
            for own in (*team.parameters(), *team.buffers()):
                own.data = own.data.clone()

    def forward(self, batch: StackedBatch) -> TeamOutputs:
        """Return logits [K, T, B, N, A], each agent's embeddings and taps, [K, T, B, W]."""
        given = batch.targets
        shape = given.weight.shape[:3]
        first = self.teams[0]
        own = _network_inputs(first, given)
        found: dict[int, Stacked] = {}
        for group, stack in zip(self.agents, self.stacks, strict=True):
            x = torch.cat([own[i].view(*shape, -1).permute(1, 0, 3, 2) for i in group], 1)
            with first.border("stacked"):
                said: Stacked = stack(x)
            for place, i in enumerate(group):
                found[i] = _of_agent(said, place, shape[0])
        every = [found[i] for i in range(len(self.shapes))]
        logits = first.joined([own.outputs for own in every])
        taps = {name: [own.taps[name] for own in every] for name in every[0].taps}
        return TeamOutputs(logits, [own.embedding for own in every], taps)


def _of_agent(said: Stacked, place: int, seeds: int) -> Stacked:
    """Return the part of the agent at a place of a stack, [K, T, B, W]."""

    def own(x: Tensor) -> Tensor:
        return x[:, place * seeds : (place + 1) * seeds].permute(1, 0, 3, 2)

    taps = {name: own(x) for name, x in said.taps.items()}
    return Stacked(own(said.outputs), own(said.embedding), taps)


def _network_inputs(team: StudentTeam, given: Targets) -> list[Tensor]:
    """Return what every agent's network takes, [K T B, I]; zero where its mask hides something."""
    steps, batch = given.weight.shape[1:3]
    prepared = given.inputs.flatten(0, 2)
    row = torch.arange(len(prepared), device=prepared.device)
    first = row % (steps * batch) < batch
    before = torch.where(first, row, row - batch)  # of a first step itself
    return team.network_inputs(prepared, given.last_actions.flatten(0, 2), before)


class _StackedHead(nn.Module):
    """One linear head of each of K seeds, or a sequence of linear layers and ReLUs, or nothing.

    ``layers`` have weights [K, ...].
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [K, T, B, I] to [K, T, B, O]."""
        x = x.permute(1, 0, 3, 2)
        for layer in _layers(self.layers):
            x = StackedAffine.of(layer)(x) if isinstance(layer, nn.Linear) else x.relu()
        return x.permute(1, 0, 3, 2)


class StackedHeads(nn.Module):
    """The auxiliary networks of K seeds, by the term's name.

    Linear ones are computed together, and ``heads`` read their weights from here. Others, and those
    of terms that know one seed only, stay apart, and their terms are computed seed by seed.
    """

    def __init__(self, heads: Sequence[AuxiliaryHeads], terms: ActiveTerms) -> None:
        super().__init__()
        self.terms, self.seeds = heads[0].terms, tuple(heads)
        self.heads = nn.ModuleList()
        self.together: dict[str, bool] = {}
        for name, *each in zip(self.terms, *(h.heads for h in heads), strict=True):
            self.together[name] = terms.terms[name].any_axes and all(map(_linear, each))
            if self.together[name]:
                whole = _list(stacked_module(each))
                self.heads.append(nn.ModuleList(map(_StackedHead, whole)))
            else:
                self.heads.append(nn.ModuleList(each))

    def by_term(self) -> dict[str, nn.Module]:
        """Return the networks by the names of their terms; of seeds apart a list of each seed's."""
        return dict(zip(self.terms, self.heads, strict=True))

    def each_by_term(self) -> dict[str, Sequence[nn.Module]]:
        """Return the networks by the names of their terms: one of all seeds, or one of each."""
        return {
            name: (module,) if self.together[name] else list(_list(module))
            for name, module in self.by_term().items()
        }

    def of_seed(self, number: int) -> dict[str, nn.Module]:
        """Return the networks of one seed by the names of their terms."""
        return self.seeds[number].by_term()

    def stacked_parameters(self) -> Iterator[Tensor]:
        """Yield the parameters whose first axis is the seed."""
        for name, module in self.by_term().items():
            if self.together[name]:
                for head in _list(module):  # the order in which norms are summed
                    yield from sorted(head.parameters(), key=lambda p: -p.ndim)

    def own_parameters(self, seed: int) -> Iterator[Tensor]:
        """Yield the parameters of the seed of this number alone."""
        for name, module in self.by_term().items():
            if not self.together[name]:
                yield from _list(module)[seed].parameters()


def _list(module: nn.Module) -> nn.ModuleList:
    assert isinstance(module, nn.ModuleList)  # noqa: S101 - made by StackedHeads
    return module


def _linear(heads: nn.Module) -> bool:
    """Whether heads are one linear layer an agent, or a sequence of them and of ReLUs."""
    if not isinstance(heads, nn.ModuleList):
        return False
    layers = [layer for head in heads for layer in _layers(head)]
    return all(type(layer) in (nn.Linear, nn.ReLU) for layer in layers)


def _layers(head: nn.Module) -> list[nn.Module]:
    """Return the layers of a head; an identity has none."""
    if isinstance(head, nn.Sequential):
        return list(head)
    return [] if isinstance(head, nn.Identity) else [head]


def stacked_losses(
    terms: ActiveTerms,
    students: StudentBatch,
    targets: Mapping[str, Mapping[str, Tensor]],
    heads: StackedHeads,
) -> Iterator[tuple[str, dict[str, Elements]]]:
    """Yield the losses of every term, of all seeds, as :meth:`ActiveTerms.losses` does of one."""
    of_term = heads.by_term()
    for name, term in terms.terms.items():
        only = terms.only(name)
        if term.any_axes and heads.together.get(name, True):
            yield from only.losses(students, targets, of_term)
            continue
        each = []
        for k in range(len(students.weight)):
            head = of_term.get(name)
            if isinstance(head, nn.ModuleList):
                head = head[k]
            own = {name: {key: x[k].flatten(0, 1) for key, x in targets.get(name, {}).items()}}
            found = only.losses(_of_seed(students, k), own, {} if head is None else {name: head})
            each.append(dict(found))
        if each[0]:
            yield name, _joined([found[name] for found in each])


def _of_seed(students: StudentBatch, k: int) -> StudentBatch:
    """Return the students of one seed, [S, ...]."""

    def own(x: Tensor) -> Tensor:
        return x[k].flatten(0, 1)

    policy, expert = students.policy, students.expert_policy
    available = own(policy.available)
    return replace(
        students,
        policy=type(policy)(own(policy.parameters), available),
        embeddings=[own(e) for e in students.embeddings],
        taps={name: [own(x) for x in each] for name, each in students.taps.items()},
        weight=own(students.weight),
        alive=own(students.alive),
        expert_policy=None if expert is None else expert.restored(own(expert.kept()), available),
    )


def _joined(each: Sequence[dict[str, Elements]]) -> dict[str, Elements]:
    return {
        part: Elements(
            torch.stack([found[part].values for found in each]),
            torch.stack([found[part].weight for found in each]),
            each[0][part].scale,
        )
        for part in each[0]
    }


@dataclass(slots=True)
class StackedPass:
    """The passes of all teams over batches of their own, as one graph."""

    team: StackedTeams

    def batches(
        self, train: EpisodeTargets, size: int, seeds: Sequence[int], epoch: int
    ) -> Iterator[StackedBatch]:
        """Yield the batches of an epoch."""
        for each in zip(*(train.epoch(size, seed, epoch) for seed in seeds), strict=True):
            yield StackedBatch.of(each)

    def forward(self, batch: StackedBatch) -> TeamOutputs:
        """Return logits [K, T, B, N, A] and each agent's embeddings [K, T, B, H_i]."""
        found: TeamOutputs = self.team(batch)
        return found

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` [K] to the parameters."""
        loss.sum().backward()  # type: ignore[no-untyped-call]


def of_seed(values: Tensor, k: int, seeds: int) -> Tensor:
    """Return the part of seed number ``k`` of stacked parameters or of equally shaped tensors.

    Of each agent one seed stands behind the other: [G K, ...], of which the part is [G, ...].
    """
    return values.view(-1, seeds, *values.shape[1:])[:, k]


@torch.no_grad()
def clip_each(team: StackedTeams, heads: StackedHeads, most: float) -> Tensor:
    """Scale the gradients of every seed to a norm of ``most`` or less; return the norms, [K]."""
    count = len(team.teams)
    stacked = (*team.parameters(), *heads.stacked_parameters())
    views = [p.grad.view(-1, count, *p.shape[1:]) for p in stacked if p.grad is not None]
    squares = [x.square().movedim(1, 0).flatten(1).sum(1) for x in views]
    own = [[p.grad for p in heads.own_parameters(k) if p.grad is not None] for k in range(count)]
    if any(own):
        squares.append(torch.stack([torch.stack([x.square().sum() for x in o]).sum() for o in own]))
    norm = torch.stack(squares).sum(0).sqrt()
    share = (most / (norm + 1e-6)).clamp(max=1.0)
    for view in views:
        view.mul_(share.view(1, -1, *[1] * (view.ndim - 2)))
    for gradients, scale in zip(own, share, strict=True):
        for gradient in gradients:
            gradient.mul_(scale)
    return norm
