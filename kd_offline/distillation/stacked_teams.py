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

from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads, linear
from kd_offline.distillation.episode_targets import EpisodeTargets
from kd_offline.distillation.targets import PackedTargets, Targets, is_outermost
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.distillation.terms.base import Elements, StudentBatch
from kd_offline.errors import UsageError
from kd_offline.networks.gru import Weights
from kd_offline.networks.low_rank import LowRankGRU
from kd_offline.networks.recurrent import RecurrentNetwork
from kd_offline.networks.stacked import Affine, dense, stacked_gru
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
    """Networks of one shape: agents of K teams, seed after seed for each agent."""

    def __init__(self, networks: Sequence[nn.Module], aligners: Sequence[nn.Module]) -> None:
        super().__init__()
        first = networks[0]
        assert isinstance(first, RecurrentNetwork)  # noqa: S101 - see _require_stackable
        self.shape = first.shape
        self.low_rank = isinstance(first.gru, LowRankGRU)
        self._register("network", networks)
        self._register("aligner", aligners)

    def _register(self, what: str, modules: Sequence[nn.Module]) -> None:
        """Let the modules read their weights from ours."""
        for each in zip(*(module.named_parameters() for module in modules), strict=True):
            name = f"{what}_{each[0][0].replace('.', '_')}"
            own = nn.Parameter(torch.stack([p.detach() for _, p in each]))
            self.register_parameter(name, own)
            for (_, parameter), view in zip(each, own.data, strict=True):
                parameter.data = view

    def _affine(self, layer: str) -> Affine:
        return Affine(getattr(self, f"{layer}_weight"), getattr(self, f"{layer}_bias"))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x`` [T, M, I, B] to outputs [T, M, A, B] and embeddings [T, M, H, B]."""
        if hasattr(self, "aligner_weight"):
            x = self._affine("aligner")(x)
        norm: Affine | None = None  # gain and offset become part of the layer that reads them
        for index in range(len(self.shape.trunk)):
            layer = self._affine(f"network_trunk_{3 * index}")
            x = dense(x, layer if norm is None else layer.after(*norm), _EPS)
            norm = self._affine(f"network_trunk_{3 * index + 2}")
        if self.shape.gru is not None:
            x = stacked_gru(x, self._gru(norm))
        elif norm is not None:
            x = x * norm.weight.unsqueeze(-1) + norm.bias.unsqueeze(-1)
        return self._affine("network_head")(x), x

    def _gru(self, norm: Affine | None) -> Weights:
        part = "network_gru_"
        if self.low_rank:
            thin = [getattr(self, f"{part}weight_{name}_in") for name in ("ih", "hh")]
            wide = [getattr(self, f"{part}weight_{name}_out") for name in ("ih", "hh")]
            ih, hh = (torch.bmm(u, v) for u, v in zip(wide, thin, strict=True))
            biases = [getattr(self, f"{part}bias_{name}") for name in ("ih", "hh")]
        else:
            ih, hh = (getattr(self, f"{part}weight_{name}_l0") for name in ("ih", "hh"))
            biases = [getattr(self, f"{part}bias_{name}_l0") for name in ("ih", "hh")]
        inputs = Affine(ih, biases[0])
        if norm is not None:
            inputs = inputs.after(*norm)
        return Weights(inputs.weight, hh, inputs.bias, biases[1])


_EPS = 1e-5  # of nn.LayerNorm


class StackedTeams(nn.Module):
    """Teams of one design, each of its own seed; ``teams`` read their weights from here.

    Raises
    ------
    UsageError
        Their networks cannot be computed together.
    """

    def __init__(self, teams: Sequence[StudentTeam]) -> None:
        super().__init__()
        self.teams = tuple(teams)
        first = teams[0]
        self.spec, self.shapes = first.spec, first.shapes
        for network in first.networks:
            if not isinstance(network, RecurrentNetwork):
                msg = (
                    "only students of dense layers and GRUs can be trained with all seeds at once: "
                    "set batched_seeds to false, or choose the student gru or mlp"
                )
                raise UsageError(msg)
        agents: dict[Any, list[int]] = {}
        for i, shape in enumerate(self.shapes):
            agents.setdefault(shape, []).append(i)
        self.agents = list(agents.values())
        self.stacks = nn.ModuleList(
            _Stack(
                [team.networks[i] for i in group for team in teams],
                [team.aligners[i] for i in group for team in teams],
            )
            for group in self.agents
        )

    def part(self) -> None:
        """Copy the weights so that every team has its own."""
        for team in self.teams:
            for parameter in team.parameters():
                parameter.data = parameter.data.clone()

    @property
    def matrices(self) -> list[Tensor]:
        """The matrices between hidden layers, which Muon trains."""
        return [
            p
            for name, p in self.named_parameters()
            if p.ndim == 3 and not ("_head_" in name or ".aligner_" in name)
        ]

    def forward(self, batch: StackedBatch) -> TeamOutputs:
        """Return logits [K, T, B, N, A] and each agent's embeddings, [K, T, B, H_i]; no taps.

        Networks that can be stacked have none.
        """
        given = batch.targets
        shape = given.weight.shape[:3]
        own = _network_inputs(self.teams[0], given)
        outputs: dict[int, Tensor] = {}
        embeddings: dict[int, Tensor] = {}
        for group, stack in zip(self.agents, self.stacks, strict=True):
            x = torch.cat([own[i].view(*shape, -1).permute(1, 0, 3, 2) for i in group], 1)
            found = [values.split(shape[0], 1) for values in stack(x)]
            for i, logits, embedding in zip(group, *found, strict=True):
                outputs[i], embeddings[i] = (y.permute(1, 0, 3, 2) for y in (logits, embedding))
        every = range(len(self.shapes))
        logits = self.teams[0].joined([outputs[i] for i in every])
        return TeamOutputs(logits, [embeddings[i] for i in every], {})


def _network_inputs(team: StudentTeam, given: Targets) -> list[Tensor]:
    """Return what every agent's network takes, [K T B, I]; zero where its mask hides something."""
    steps, batch = given.weight.shape[1:3]
    prepared = given.inputs.flatten(0, 2)
    row = torch.arange(len(prepared), device=prepared.device)
    first = row % (steps * batch) < batch
    before = torch.where(first, row, row - batch)  # of a first step itself
    return team.network_inputs(prepared, given.last_actions.flatten(0, 2), before)


class _StackedHead(nn.Module):
    """One linear head of each of K seeds, or a sequence of linear layers and ReLUs."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = [list(m) if isinstance(m, nn.Sequential) else [m] for m in modules]
        self.relus = [isinstance(layer, nn.ReLU) for layer in layers[0]]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.biased = []
        for each in zip(*layers, strict=True):
            linear = [layer for layer in each if isinstance(layer, nn.Linear)]
            if not linear:
                continue
            trained = linear[0].weight.requires_grad
            weight = torch.stack([layer.weight.detach() for layer in linear])
            self.weights.append(nn.Parameter(weight, requires_grad=trained))
            self.biased.append(linear[0].bias is not None)
            if self.biased[-1]:
                bias = torch.stack([layer.bias.detach() for layer in linear])
                self.biases.append(nn.Parameter(bias, requires_grad=trained))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [K, T, B, I] to [K, T, B, O]."""
        x = x.permute(1, 0, 3, 2)
        weights, biases, biased = iter(self.weights), iter(self.biases), iter(self.biased)
        for relu in self.relus:
            if relu:
                x = x.relu()
                continue
            x = next(weights) @ x
            if next(biased):
                x = x + next(biases).unsqueeze(-1)
        return x.permute(1, 0, 3, 2)

    def of_seed(self, number: int) -> nn.Module:
        """Return the layers of one seed, as they were given."""
        weights, biases, biased = iter(self.weights), iter(self.biases), iter(self.biased)
        layers: list[nn.Module] = []
        for relu in self.relus:
            if relu:
                layers.append(nn.ReLU())
                continue
            layer = linear(next(weights)[number].detach(), bias=next(biased))
            if layer.bias is not None:
                layer.bias.data.copy_(next(biases)[number])
            layers.append(layer)
        return nn.Sequential(*layers) if len(layers) > 1 else layers[0]


class StackedHeads(nn.Module):
    """The auxiliary networks of K seeds, by the term's name.

    Linear ones are computed together. Others, and those of terms that know one seed only, stay
    apart, and their terms are computed seed by seed.
    """

    def __init__(self, heads: Sequence[AuxiliaryHeads], terms: ActiveTerms) -> None:
        super().__init__()
        self.terms = heads[0].terms
        self.heads = nn.ModuleList()
        self.together: dict[str, bool] = {}
        for name, *each in zip(self.terms, *(h.heads for h in heads), strict=True):
            self.together[name] = terms.terms[name].any_axes and all(map(_linear, each))
            if self.together[name]:
                pairs = zip(*each, strict=True)
                self.heads.append(nn.ModuleList(map(_StackedHead, pairs)))
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
        return {
            name: _unstacked(module, number) if self.together[name] else _list(module)[number]
            for name, module in self.by_term().items()
        }

    def stacked_parameters(self) -> Iterator[Tensor]:
        """Yield the parameters whose first axis is the seed."""
        for name, module in self.by_term().items():
            if self.together[name]:
                yield from module.parameters()

    def own_parameters(self, seed: int) -> Iterator[Tensor]:
        """Yield the parameters of the seed of this number alone."""
        for name, module in self.by_term().items():
            if not self.together[name]:
                yield from _list(module)[seed].parameters()


def _unstacked(module: nn.Module, number: int) -> nn.ModuleList:
    heads = (head for head in _list(module) if isinstance(head, _StackedHead))
    return nn.ModuleList(head.of_seed(number) for head in heads)


def _list(module: nn.Module) -> nn.ModuleList:
    assert isinstance(module, nn.ModuleList)  # noqa: S101 - made by StackedHeads
    return module


def _linear(heads: nn.Module) -> bool:
    """Whether heads are one linear layer an agent, or a sequence of them and of ReLUs."""
    if not isinstance(heads, nn.ModuleList):
        return False
    layers = [x for head in heads for x in (head if isinstance(head, nn.Sequential) else [head])]
    return all(type(layer) in (nn.Linear, nn.ReLU) for layer in layers)


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
