"""From a student as it was trained to the network that is carried: less, with the same answers.

Hidden features are exactly zero for a student under a fixed mask, so their columns are dropped. The
aligner, the gains and offsets of every layer normalisation and the constant bits of a fixed mask
are folded into the matrix that follows, in float64. The scaling of the inputs stays what it is, one
subtraction and one product for each feature: folding the means would cancel large numbers against
each other where a feature hardly varies, and folding the deviations would leave the rows of the
first matrix too uneven for int8.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from kd_offline.exports.network import Affine, AgentNetwork
from kd_offline.students.networks import StudentTeam
from kd_offline.students.policy import StudentPolicy
from kd_offline.types import Array, BoolArray, Float32Array


class _Map(NamedTuple):
    """An affine map in float64; a weight of one axis is a diagonal."""

    weight: Array
    bias: Array


def compact(student: StudentPolicy) -> tuple[AgentNetwork, ...]:
    """Return the deployed network of every agent of a team."""
    seen = student.mask.static
    count = student.team.spec.n_agents
    return tuple(_agent(student.team, i, None if seen is None else seen[i]) for i in range(count))


def _agent(team: StudentTeam, i: int, visible: BoolArray | None) -> AgentNetwork:
    width, asked = team.spec.obs_widths[i], team.inputs
    seen = np.flatnonzero(np.ones(width, bool) if visible is None else visible[:width])
    moving = asked.motion and len(seen) > 0
    trunk, gru, head = _folded(team, i)
    first = _compacted(trunk[0] if trunk else gru[0] if gru else head, team, i, visible)
    rest = [*trunk, *gru, head][1:]
    every = [Affine(_single(m.weight), _single(m.bias)) for m in (first, *rest)]
    depth = len(trunk)
    return AgentNetwork(
        agent=team.spec.agents[i],
        seen=seen,
        centre=team.mean[i].numpy()[seen],
        scale=_single(1 / _double(team.std[i])[seen]),
        motion=_single(1 / _double(team.motion_std[i])[seen]) if moving else None,
        last_action=asked.last_action,
        drawn=visible is None,
        mask_input=asked.mask and visible is None,
        trunk=tuple(every[:depth]),
        gru=(every[depth], every[depth + 1]) if gru else None,
        head=every[-1],
    )


def _folded(team: StudentTeam, i: int) -> tuple[list[_Map], list[_Map], _Map]:
    """Return the matrices of trunk, GRU (two or none) and head, with what precedes each in it."""
    network, aligner = team.networks[i], team.aligners[i]
    before = _linear(aligner) if isinstance(aligner, nn.Linear) else None
    trunk = []
    for layer in network.trunk:  # type: ignore[union-attr]
        if isinstance(layer, nn.Linear):
            trunk.append(_after(before, _linear(layer)))
        elif isinstance(layer, nn.LayerNorm):
            before = _Map(_double(layer.weight), _double(layer.bias))
    head = _linear(network.head)
    unit = network.gru
    if unit is None:
        return trunk, [], _after(before, head)
    ours = _Map(_double(unit.weight_ih_l0), _double(unit.bias_ih_l0))  # type: ignore[union-attr]
    theirs = _Map(_double(unit.weight_hh_l0), _double(unit.bias_hh_l0))  # type: ignore[union-attr]
    return trunk, [_after(before, ours), theirs], head


def _compacted(first: _Map, team: StudentTeam, i: int, visible: BoolArray | None) -> _Map:
    """Drop the columns of hidden features; the bits of a fixed mask become part of the bias."""
    if visible is None:
        return first
    width, asked = team.spec.obs_widths[i], team.inputs
    bits = visible[:width]
    value = [bits]
    constant = [np.zeros(width, bool)]
    if asked.mask:
        value.append(np.zeros(width, bool))
        constant.append(bits)
    if asked.motion:
        value.append(bits)
        constant.append(np.zeros(width, bool))
    spare = first.weight.shape[1] - width * len(value)
    keep = np.concatenate([*value, np.ones(spare, bool)])
    ones = np.concatenate([*constant, np.zeros(spare, bool)])
    return _Map(first.weight[:, keep], first.bias + first.weight[:, ones].sum(axis=1))


def _after(before: _Map | None, this: _Map) -> _Map:
    """Return ``this`` applied to the result of ``before``."""
    if before is None:
        return this
    product = this.weight @ before.weight if before.weight.ndim > 1 else this.weight * before.weight
    return _Map(product, this.bias + this.weight @ before.bias)


def _linear(layer: nn.Module | Tensor) -> _Map:
    return _Map(_double(layer.weight), _double(layer.bias))  # type: ignore[union-attr]


def _double(tensor: Tensor | nn.Module) -> Array:
    return tensor.detach().double().numpy()  # type: ignore[operator]


def _single(values: Array) -> Float32Array:
    return np.ascontiguousarray(values, np.float32)
