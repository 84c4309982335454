"""Teams of several seeds computed at once: one matrix product instead of one for each team.

Values of all seeds stand in one tensor whose first axis is the seed. Every seed keeps its own
weights, batches and figures, so that what comes out is what each seed alone would give, up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.fusion import FusionNetwork
from kd_offline.networks.fusion_shape import FusionShape
from kd_offline.networks.gru import Weights
from kd_offline.networks.packed import NO_TAPS
from kd_offline.networks.predicting import PredictingNetwork
from kd_offline.networks.predicting_shape import PredictingShape
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


class _Outputs(NamedTuple):
    """What the networks of a stack give; taps by name, [T, M, W, B] each."""

    logits: Tensor  # [T, M, A, B]
    embedding: Tensor  # [T, M, H, B]
    taps: Mapping[str, Tensor] = NO_TAPS


class _Stack(nn.Module):
    """Networks of one shape: agents of K teams, seed after seed for each agent."""

    def __init__(self, networks: Sequence[nn.Module], aligners: Sequence[nn.Module]) -> None:
        super().__init__()
        first = networks[0]
        assert isinstance(first, _ALIKE)  # noqa: S101 - see StackedTeams
        self.shape = first.shape
        self.run = _RUN[type(first)]
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

    def affine(self, layer: str) -> Affine:
        """Return a layer of all networks."""
        return Affine(getattr(self, f"{layer}_weight"), getattr(self, f"{layer}_bias"))

    def forward(self, x: Tensor) -> _Outputs:
        """Run all networks on ``x`` [T, M, I, B]."""
        if hasattr(self, "aligner_weight"):
            x = self.affine("aligner")(x)
        return self.run(self, x)

    def trunk(self, part: str, shape: NetworkShape, x: Tensor) -> tuple[Tensor, Affine | None]:
        """Return the last normalised layer, and its gain and offset; None without a layer."""
        norm: Affine | None = None  # gain and offset become part of the layer that reads them
        for index in range(len(shape.trunk)):
            layer = self.affine(f"{part}_trunk_{3 * index}")
            x = dense(x, layer if norm is None else layer.after(*norm), _EPS)
            norm = self.affine(f"{part}_trunk_{3 * index + 2}")
        return x, norm

    def recurrent(
        self, part: str, shape: NetworkShape, x: Tensor, norm: Affine | None = None
    ) -> Tensor:
        """Return the states of the GRU, or without one ``x`` itself, of ``x * gain + offset``."""
        if shape.gru is not None:
            return stacked_gru(x, self._gru(f"{part}_gru_", shape, norm))
        return x if norm is None else _scaled(x, norm)

    def _gru(self, part: str, shape: NetworkShape, norm: Affine | None) -> Weights:
        if shape.rank is not None:
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


def _scaled(x: Tensor, norm: Affine) -> Tensor:
    """Return ``x * gain + offset`` of ``x`` [T, M, H, B]."""
    return x * norm.weight.unsqueeze(-1) + norm.bias.unsqueeze(-1)


def _run_recurrent(stack: _Stack, x: Tensor) -> _Outputs:
    """Run networks of trunk, GRU and head."""
    shape = stack.shape
    assert isinstance(shape, NetworkShape)  # noqa: S101 - of RecurrentNetwork
    embedding = stack.recurrent("network", shape, *stack.trunk("network", shape, x))
    return _Outputs(stack.affine("network_head")(embedding), embedding)


def _run_fusion(stack: _Stack, x: Tensor) -> _Outputs:
    """Run networks with a fusion block on all their inputs."""
    shape = stack.shape
    assert isinstance(shape, FusionShape)  # noqa: S101 - of FusionNetwork
    hyper = stack.affine("network_block_hyper")(x).relu()
    maps = stack.affine("network_block_maps")(x)
    maps = maps.view(*maps.shape[:2], shape.hyper + 1, shape.width, -1)
    fused = (maps[:, :, :-1] * hyper.unsqueeze(3)).sum(2) + maps[:, :, -1]
    feature, norm = stack.trunk("network_body", shape.body, fused)
    feature = feature if norm is None else _scaled(feature, norm)
    embedding = stack.recurrent("network_body", shape.body, feature)
    taps = {"s_hat": fused, "feature": feature}
    return _Outputs(stack.affine("network_body_head")(embedding), embedding, taps)


def _run_predicting(stack: _Stack, x: Tensor) -> _Outputs:
    """Run networks that predict from the state of their GRU."""
    shape = stack.shape
    assert isinstance(shape, PredictingShape)  # noqa: S101 - of PredictingNetwork
    part = "network_body"
    state = stack.recurrent(part, shape.body, *stack.trunk(part, shape.body, x))
    predicted = dense(state, stack.affine("network_body_head"), _EPS)
    z = stack.affine("network_z").after(*stack.affine("network_norm"))(predicted)
    read = torch.cat([state, z], 2)
    return _Outputs(stack.affine("network_head")(read), read, {"z": z})


_ALIKE = (RecurrentNetwork, FusionNetwork, PredictingNetwork)
_RUN: dict[type[nn.Module], Callable[[_Stack, Tensor], _Outputs]] = dict(
    zip(_ALIKE, (_run_recurrent, _run_fusion, _run_predicting), strict=True)
)


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
            if type(network) not in _RUN:
                msg = (
                    "only students of kd-offline's own families can be trained with all seeds at "
                    "once: set batched_seeds to false, or choose the student gru, mlp, fusion or "
                    "ptde"
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
        """Return logits [K, T, B, N, A], each agent's embeddings and taps, [K, T, B, W]."""
        given = batch.targets
        shape = given.weight.shape[:3]
        own = _network_inputs(self.teams[0], given)
        found: dict[int, _Outputs] = {}
        for group, stack in zip(self.agents, self.stacks, strict=True):
            x = torch.cat([own[i].view(*shape, -1).permute(1, 0, 3, 2) for i in group], 1)
            said: _Outputs = stack(x)
            for place, i in enumerate(group):
                found[i] = _of_agent(said, place, shape[0])
        every = [found[i] for i in range(len(self.shapes))]
        logits = self.teams[0].joined([own.logits for own in every])
        taps = {name: [own.taps[name] for own in every] for name in every[0].taps}
        return TeamOutputs(logits, [own.embedding for own in every], taps)


def _of_agent(said: _Outputs, place: int, seeds: int) -> _Outputs:
    """Return the part of the agent at a place of a stack, [K, T, B, W]."""

    def own(x: Tensor) -> Tensor:
        return x[:, place * seeds : (place + 1) * seeds].permute(1, 0, 3, 2)

    taps = {name: own(x) for name, x in said.taps.items()}
    return _Outputs(own(said.logits), own(said.embedding), taps)


def _network_inputs(team: StudentTeam, given: Targets) -> list[Tensor]:
    """Return what every agent's network takes, [K T B, I]; zero where its mask hides something."""
    steps, batch = given.weight.shape[1:3]
    prepared = given.inputs.flatten(0, 2)
    row = torch.arange(len(prepared), device=prepared.device)
    first = row % (steps * batch) < batch
    before = torch.where(first, row, row - batch)  # of a first step itself
    return team.network_inputs(prepared, given.last_actions.flatten(0, 2), before)


class _StackedHead(nn.Module):
    """One linear head of each of K seeds, or a sequence of linear layers and ReLUs, or nothing."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = [_layers(m) for m in modules]
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
        return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


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
