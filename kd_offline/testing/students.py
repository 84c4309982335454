"""Conformance check for student families: run it on your own before distilling with it.

::

    from kd_offline.testing.students import check_family

    check_family("mine")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kd_offline.exports.compact import compact
from kd_offline.exports.contract import contracts
from kd_offline.exports.engines import numpy_steps
from kd_offline.exports.engines import team as team_of
from kd_offline.exports.network import AgentNetwork
from kd_offline.networks.arithmetic import FLOAT, DeployedInputs, NetworkCost, StudentShape
from kd_offline.networks.deployed import Affine
from kd_offline.networks.packed import Folded, Packed, PackedNetwork
from kd_offline.networks.stacked import stacked_module
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.seeding import generator
from kd_offline.students.cost_bounds import card_shape
from kd_offline.students.families import FAMILIES, family_of, settings_of
from kd_offline.students.families.base import OPTIONAL, StudentFamily
from kd_offline.students.policy import StudentPolicy, build
from kd_offline.testing.conformance import ConformanceError, require
from kd_offline.testing.factories import environment_spec
from kd_offline.types import View

_SIZES = [3, 3, 2, 1, 1]  # sequences of 5, 3 and 2 steps
_INPUTS, _OUTPUTS = 7, 4
_SEEN = np.array([[1, 0, 1, 1, 0, 1], [1, 1, 0, 1, 0, 0]], bool)  # of two agents
_ATOL, _RTOL = 2e-5, 1e-4


def check_family(
    name: str, settings: Mapping[str, Any] | None = None, *, widths: Iterable[int] = (6, 9)
) -> None:
    """Raise ``ConformanceError`` unless a student family keeps every promise of the protocol.

    Parameters
    ----------
    name
        That the family is registered by.
    settings
        Of the recipe's table ``student``, where they are not the defaults.
    widths
        Hidden widths of the networks that are tried.

    Notes
    -----
    The rules, by the name an error begins with: ``declaration``, ``shape``, ``weights``,
    ``memory``, ``packing``, ``episodes``, ``steps``, ``gradients``, ``restored state``,
    ``columns``, ``mask``, ``cost``; and of what is offered ``stacked``, ``gates``, ``int8``,
    ``export``.
    """
    with torch.random.fork_rng():  # nothing here may depend on PyTorch's own generator
        subject = _declared(name, settings or {})
        for width in widths:
            network = _check_built(subject, width)
            _check_sequences(network)
            _check_learning(subject, width)
            _check_cost(subject, width)
            if subject.family.drops_columns:
                _check_columns(network)
            if type(network).is_stackable():
                _check_stacked(subject, width)
            if "gates" not in subject.declined:
                _check_gates(subject, width)
            if "int8" not in subject.declined:
                _check_folded(network)
                if type(network).matrices is not PackedNetwork.matrices:
                    _check_zeros(network)
        _check_mask(subject)
        if not {"onnx", "c", "torch"} <= subject.declined.keys():
            _check_exported(subject)


@dataclass(frozen=True, slots=True)
class _Subject:
    """The family that is checked, and with which settings."""

    family: StudentFamily[Any, Any]
    settings: StudentArchitecture
    declined: Mapping[str, str]

    def shape(self, width: int, inputs: int = _INPUTS) -> StudentShape:
        shape: StudentShape = self.family.shape(self.settings, width, inputs, _OUTPUTS)
        return shape

    def network(self, width: int, seed: int | None = 0) -> PackedNetwork:
        rng = None if seed is None else generator(seed, "student weights")
        return self.family.network(self.shape(width), rng)


def _declared(name: str, given: Mapping[str, Any]) -> _Subject:
    rule = "declaration"
    family = family_of(StudentArchitecture(family=name))
    one_line = family.description and "\n" not in family.description
    require(one_line, rule, "description has to be one line")
    try:
        family.settings()
    except ValidationError as error:
        raise ConformanceError(rule, f"a setting has no default: {error}") from None
    settings = settings_of(StudentArchitecture.model_validate({**given, "family": name}))
    declined = dict(family.declines(settings))
    unknown = sorted(declined.keys() - OPTIONAL.keys())
    detail = f"{', '.join(unknown)} cannot be declined: allowed are {', '.join(OPTIONAL)}"
    require(not unknown, rule, detail)
    for offer, reason in declined.items():
        require(reason and "\n" not in reason, rule, f"{offer} has to be declined in one sentence")
    require(name in FAMILIES, rule, f"{name!r} is not registered")
    return _Subject(family, settings, declined)


def _check_built(subject: _Subject, width: int) -> PackedNetwork:
    """Require a network of the shape that was asked for, its weights of the generator alone."""
    shape = subject.shape(width)
    given = (shape.inputs, shape.outputs)
    require(given == (_INPUTS, _OUTPUTS), "shape", f"it has {given} inputs and outputs")
    require(shape.embedding > 0, "shape", "the embedding has no width")
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(subject.network(width))
    network, again = made
    require(isinstance(network, PackedNetwork), "shape", "network gives no PackedNetwork")
    first, second = network.state_dict(), again.state_dict()
    for part, values in first.items():
        detail = f"{part!r} is drawn from another generator than the one given"
        require(torch.equal(values, second[part]), "weights", detail)
    other = subject.network(width, seed=1).state_dict()
    differ = any(not torch.equal(first[part], other[part]) for part in first)
    require(differ, "weights", "they do not depend on the generator")
    with torch.device("meta"):
        bare = subject.network(width, None).state_dict()
    same = {k: v.shape for k, v in bare.items()} == {k: v.shape for k, v in first.items()}
    require(same, "weights", "without a generator they have other names or shapes")
    memory = network.start(2)
    fresh = memory.ndim == 3 and memory.shape[:2] == (1, 2) and not memory.any()
    require(fresh, "memory", "that of fresh episodes has to be zeros [1, B, M]")
    return network


def _inputs(steps: int, seed: int = 0) -> Tensor:
    drawn = generator(seed, "conformance").standard_normal((steps, _INPUTS))
    return torch.from_numpy(drawn.astype(np.float32))


def _run(network: PackedNetwork, x: Tensor, sizes: list[int]) -> Packed:
    return network.packed(x, sizes, network.start(sizes[0])[0])


def _rows(sizes: list[int]) -> list[list[int]]:
    """Return the packed rows of every sequence."""
    starts = [0, *accumulate(sizes)]
    return [
        [start + k for start, end in pairwise(starts) if start + k < end] for k in range(sizes[0])
    ]


def _check_sequences(network: PackedNetwork) -> None:
    """Require one answer however a batch of episodes is cut up, and that episodes are apart."""
    x = _inputs(sum(_SIZES))
    whole, sequences = _run(network, x, _SIZES), _rows(_SIZES)
    shape, width = network.shape, network.start(1).shape[2]
    widths = {"outputs": shape.outputs, "embedding": shape.embedding, "memory": width}
    widths |= {f"tap {name}": tap for name, tap in shape.taps.items()}
    wanted = {name: (len(x), each) for name, each in widths.items()}
    found = {name: tuple(part.shape) for name, part in whole.parts().items()}
    require(found == wanted, "shape", f"packed gives {found}, and should give {wanted}")
    for rows in sequences:
        alone = _run(network, x[rows], [1] * len(rows))
        _same(whole, alone, rows, "packing", "an episode has other outputs alone than in a batch")
    spoiled = x.clone()
    spoiled[sequences[0]] += 1.0
    after = _run(network, spoiled, _SIZES)
    for rows in sequences[1:]:
        kept = all(torch.equal(a[rows], b[rows]) for _, a, b in _pairs(whole, after))
        require(kept, "episodes", "an episode depends on another one of its batch")
    memory, at = network.start(_SIZES[0])[0], 0
    for size in _SIZES:
        rows = list(range(at, at + size))
        step = network.packed(x[rows], [size], memory[:size])
        _same(whole, step, rows, "steps", "step by step it has other outputs than over sequences")
        memory, at = step.memory, at + size


def _pairs(one: Packed, other: Packed) -> list[tuple[str, Tensor, Tensor]]:
    """Return the names of all parts, and the tensors of both."""
    others = other.parts()
    return [(name, part, others[name]) for name, part in one.parts().items()]


def _same(whole: Packed, part: Packed, rows: list[int], rule: str, detail: str) -> None:
    for name, one, other in _pairs(whole, part):
        close = torch.allclose(one[rows], other, atol=_ATOL, rtol=_RTOL)
        require(close, rule, f"{detail}: {name} differs")


def _check_learning(subject: _Subject, width: int) -> None:
    """Require finite gradients for every weight, and that a restored network learns on alike."""
    ends = []
    for restored in (False, True):
        network = subject.network(width)
        _learn(network, 0)
        if restored:
            saved = {name: values.clone() for name, values in network.state_dict().items()}
            network = subject.network(width, None)
            network.load_state_dict(saved)
        _learn(network, 1)
        ends.append((network.state_dict(), _run(network, _inputs(sum(_SIZES)), _SIZES)))
    (first, said), (second, again) = ends
    for name, values in first.items():
        detail = f"{name!r} differs: the network keeps something that its state lacks"
        require(torch.equal(values, second[name]), "restored state", detail)
    for _, one, other in _pairs(said, again):
        require(torch.equal(one, other), "restored state", "its outputs are other ones")


def _learn(network: PackedNetwork, seed: int) -> None:
    found = _run(network, _inputs(sum(_SIZES), seed), _SIZES)
    network.zero_grad()
    _backward(part for name, part in found.parts().items() if name != "memory")
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if not weight.requires_grad:
                continue
            there = weight.grad is not None and bool(torch.isfinite(weight.grad).all())
            require(there, "gradients", f"that of {name!r} is not finite, or there is none")
            if weight.grad is not None:
                weight.sub_(0.1 * weight.grad)


def _backward(parts: Iterable[Tensor]) -> None:
    torch.autograd.backward(torch.stack([part.square().mean() for part in parts]).sum())


def _check_columns(network: PackedNetwork) -> None:
    """Require that inputs which are zero can be left out."""
    kept = torch.tensor([0, 2, 5])
    x = torch.zeros(sum(_SIZES), _INPUTS)
    x[:, kept] = _inputs(len(x))[:, kept]
    whole = _run(network, x, _SIZES)
    memory = network.start(_SIZES[0])[0]
    part = network.packed(x[:, kept], _SIZES, memory, kept)
    rows = list(range(len(x)))
    _same(whole, part, rows, "columns", "it has other outputs where zero inputs are left out")


def _check_stacked(subject: _Subject, width: int) -> None:
    """Require of networks that are computed at once what each gives alone, and its gradients."""
    steps, count, batch = 5, 3, 2
    networks = [subject.network(width, seed) for seed in range(count)]
    noise = generator(3, "conformance")  # so that no gain is 1 and no bias is 0
    for weight in (p for network in networks for p in network.parameters()):
        weight.data.add_(torch.as_tensor(0.1 * noise.standard_normal(weight.shape)).float())
    x = _inputs(steps * count * batch).view(steps, count, batch, _INPUTS).mT
    whole = stacked_module(deepcopy(networks))
    said = whole.stacked(x)
    taps = {f"tap {name}": values for name, values in said.taps.items()}
    together = {"outputs": said.outputs, "embedding": said.embedding, **taps}
    _backward(together.values())
    for k, network in enumerate(networks):
        alone = _run(network, x[:, k].mT.flatten(0, 1), [batch] * steps).parts()
        del alone["memory"]
        _backward(alone.values())
        wanted = {name: (steps, count, part.shape[1], batch) for name, part in alone.items()}
        found = {name: tuple(part.shape) for name, part in together.items()}
        require(found == wanted, "stacked", f"it gives {found}, and should give {wanted}")
        for name, part in alone.items():
            close = torch.allclose(
                together[name][:, k].mT.flatten(0, 1), part, atol=_ATOL, rtol=_RTOL
            )
            require(close, "stacked", f"of several networks at once, {name} differs from one alone")
        for name, weight in network.named_parameters():
            if weight.grad is None:
                continue
            gradient, most = whole.get_parameter(name).grad, float(weight.grad.abs().max())
            close = gradient is not None and torch.allclose(
                count * gradient[k], weight.grad, atol=_RTOL * most, rtol=_RTOL
            )
            require(close, "stacked", f"the gradient of {name!r} differs from that of one alone")


def _check_cost(subject: _Subject, width: int) -> None:
    """Require that parameters, multiply-accumulates and memory are those that can be counted."""
    network, shape = subject.network(width), subject.shape(width)
    claimed, numbers = shape.cost(), sum(p.numel() for p in network.parameters())
    detail = f"it claims {claimed.parameters} parameters and has {numbers}"
    require(claimed.parameters == numbers, "cost", detail)
    macs = _counted(subject, network)
    detail = f"it claims {claimed.macs} multiply-accumulates a step and takes {macs}"
    require(claimed.macs == macs, "cost", detail)
    for motion in (False, True):
        given = DeployedInputs(_INPUTS // 2, _OUTPUTS, motion=motion, last_action=True)
        deployed = shape.deployed(given)
        wanted: NetworkCost = subject.shape(width, given.width).cost()
        detail = f"with {given.width} inputs it claims {deployed.cost().macs} when it is deployed"
        require(deployed.cost().macs == wanted.macs, "cost", f"{detail}, not {wanted.macs}")
        memory = deployed.memory()
        require(memory is not None, "cost", "it says no bytes at fp32")
        kept = network.start(1).shape[2] + given.kept
        if memory is not None and memory.hidden is not None:
            detail = f"it claims {memory.hidden} bytes of memory, and keeps {FLOAT * kept}"
            require(memory.hidden == FLOAT * max(kept, 1), "cost", detail)


def _counted(subject: _Subject, network: PackedNetwork) -> int:
    """Return the multiply-accumulates of a step: of deployed matrices, where they are known."""
    with torch.no_grad():
        if "int8" not in subject.declined:
            matrices = network.folded()
            inner = [
                Affine(m.weight.float().numpy(), m.bias.float().numpy())
                for m in matrices[len(network.shape.trunk) : -1]
            ]
            more = network.cell(inner).products if inner else 0
            return more + sum(matrix.weight.numel() for matrix in matrices)
        with FlopCounterMode(display=False) as counter:
            _run(network, _inputs(1), [1])
    return int(counter.get_total_flops()) // 2


def _check_gates(subject: _Subject, width: int) -> None:
    """Require that open gates change nothing, and closed ones equal the network without units."""
    network = subject.network(width)
    x, memory, units = _inputs(sum(_SIZES)), network.start(_SIZES[0])[0], network.shape.units
    rows = list(range(len(x)))
    with torch.no_grad():
        opened = network.gated(x, _SIZES, memory, [torch.ones(size) for size in units])
        _same(_run(network, x, _SIZES), opened, rows, "gates", "open gates change it")
        gates = [(torch.arange(size) % 3 > 0).float() for size in units]
        kept = [torch.nonzero(gate).squeeze(-1) for gate in gates]
        small_shape = subject.family.shape(
            subject.settings,
            network.shape.layer_widths([len(each) for each in kept]),
            _INPUTS,
            _OUTPUTS,
        )
        small = subject.family.network(small_shape, None)
        values = [gate[each] for gate, each in zip(gates, kept, strict=True)]
        network.narrow_into(small, kept, values)
        gated, narrow = network.gated(x, _SIZES, memory, gates), _run(small, x, _SIZES)
    close = torch.allclose(gated.outputs, narrow.outputs, atol=_ATOL, rtol=_RTOL)
    require(close, "gates", "closed gates are not the network without their units")


def _check_folded(network: PackedNetwork) -> None:
    """Require that the deployed matrices give the network's answers."""
    x, memory = _inputs(sum(_SIZES)), network.start(_SIZES[0])[0]
    with torch.no_grad():
        matrices = [Folded(*(part.float() for part in one)) for one in network.folded()]
        found = network.run_folded(x, _SIZES, memory, matrices)
        whole = _run(network, x, _SIZES)
    for name, one, other in _pairs(whole, found):
        close = name == "memory" or torch.allclose(one, other, atol=_ATOL, rtol=_RTOL)
        require(close, "int8", f"the deployed matrices give other {name}")


def _check_zeros(network: PackedNetwork) -> None:
    """Require that zeros of the matrices are zeros of those that are deployed."""
    with torch.no_grad():
        for matrix in network.matrices():
            matrix[:, ::2] = 0
        pairs = zip(network.matrices(), network.folded(), strict=True)
        kept = all(torch.equal(one == 0, other.weight == 0) for one, other in pairs)
    require(kept, "sparse", "zeros of its matrices are none once it is deployed")


def _check_mask(subject: _Subject) -> None:
    """Require that what a mask hides has no influence, and that the same team says the same."""
    policy = _policy(subject)
    team, spec, seen = policy.team, policy.card.environment, _SEEN
    obs = torch.from_numpy(generator(1, "conformance").standard_normal((3, 2, 2, 6))).float()
    taken = torch.zeros(3, 2, 2, spec.action_count)
    mask = torch.from_numpy(seen.astype(np.float32))
    said = []
    with torch.no_grad():
        for values in (obs, torch.where(mask > 0, obs, obs + 5.0)):
            logits, embeddings, _ = team(team.prepare(values, mask), team.start(2), taken)
            said.append([logits, *embeddings])
    for one, other in zip(*said, strict=True):
        require(torch.equal(one, other), "mask", "features that a mask hides change its outputs")


def _policy(subject: _Subject) -> StudentPolicy:
    """Return a team of two agents of random weights under a fixed mask."""
    card = StudentCard(
        environment=environment_spec((6, 4), (5, 3)),
        architecture=subject.settings,
        widths=(6, 6),
        mask="checked",
        mask_features=tuple(tuple(map(bool, row)) for row in _SEEN),
        mask_as_input=False,
        motion=True,
        last_action=True,
        method="kl",
        dataset="sha256:" + "0" * 64,
        seeds=(0,),
    )
    return StudentPolicy(card, 0, build(card, generator(0, "student weights")))


def _check_exported(subject: _Subject) -> None:
    """Require that the exported networks give the team's answers, and have the claimed sizes."""
    policy = _policy(subject)
    card, networks = policy.card, compact(policy)
    spec = card.environment
    exported = team_of(contracts(networks, spec), numpy_steps(networks), None)
    for i, network in enumerate(networks):
        shape = card_shape(card, i, card.widths[i])
        memory = shape.memory()
        claimed = (shape.cost().macs, None if memory is None else memory.parameters)
        found = (network.macs, network.parameter_bytes)
        detail = f"multiply-accumulates and bytes are {found}, and claimed {claimed}"
        require(found == claimed, "export", detail)
        taken = sorted({"previous", "started", "last_action"} & {_cell_name(network)})
        require(not taken, "export", f"the cell's name {', '.join(taken)} is that of another part")
    rng, seeds = generator(2, "conformance"), np.arange(3, dtype=np.uint64)
    states: list[Any] = [policy.start(seeds), exported.start(seeds)]
    last: Any = None
    for _ in range(4):
        obs = rng.standard_normal((3, 2, 6)).astype(np.float32)
        legal = np.arange(spec.action_count) < np.array(spec.action_counts)[:, None]
        legal = np.broadcast_to(legal, (3, *legal.shape))
        view = View(obs, np.zeros((3, 0), np.float32), legal, np.ones((3, 2), bool), last)
        said, states[0] = policy.act(view, states[0])
        again, states[1] = exported.act(view, states[1])
        ours, theirs = said.logits, again.logits
        same = ours is not None and theirs is not None and np.allclose(ours, theirs, atol=1e-4)
        require(same, "export", "exported networks have other outputs than the students")
        last = np.where(legal, ours, -np.inf).argmax(-1)


def _cell_name(network: AgentNetwork) -> str:
    return "" if network.cell is None else network.cell.name
