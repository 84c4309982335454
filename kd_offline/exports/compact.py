"""Convert a trained agent into its deployed network: fewer columns and layers, same outputs.

Hidden features are exactly zero for a student under a fixed mask, so their columns are dropped. The
aligner, the gains and offsets of every layer normalisation and the constant bits of a fixed mask
are folded into the matrix that follows, in float64. The scaling of the inputs stays what it is, one
subtraction and one product for each feature: folding the means would cancel large numbers against
each other where a feature hardly varies, and folding the deviations would leave the rows of the
first matrix too uneven for int8.

Experts are brought into the same form, so that a decision of theirs can be timed in every engine
that students are timed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kd_offline.errors import UsageError
from kd_offline.experts.protocol import Expert
from kd_offline.experts.team import MOTION_GAIN, ActorCritic
from kd_offline.exports.network import AgentNetwork
from kd_offline.networks.arithmetic import sparse_of
from kd_offline.networks.deployed import Affine, Cell
from kd_offline.networks.packed import Folded, PackedNetwork
from kd_offline.students.families import border, offered
from kd_offline.students.folding import fold, kept_columns
from kd_offline.students.networks import StudentTeam
from kd_offline.students.policy import StudentPolicy
from kd_offline.types import BoolArray, Float32Array


def compact(student: StudentPolicy) -> tuple[AgentNetwork, ...]:
    """Return the deployed network of every agent of a team.

    Raises
    ------
    UsageError
        The students' family declines every export.
    """
    architecture, seen = student.card.architecture, student.mask.static
    offered(architecture, "torch", "onnx", "c")
    agents = range(student.team.spec.n_agents)
    with border(architecture.family)("folded or cell"):
        return tuple(_agent(student.team, i, None if seen is None else seen[i]) for i in agents)


def _agent(team: StudentTeam, i: int, visible: BoolArray | None) -> AgentNetwork:
    width, asked = team.spec.obs_widths[i], team.inputs
    seen = np.flatnonzero(np.ones(width, bool) if visible is None else visible[:width])
    moving = asked.motion and len(seen) > 0
    with torch.no_grad():
        folded = fold(team, i, visible)
    columns = None if visible is None else kept_columns(team, i, visible)[0]
    trunk, cell, head = _layers(team.network(i), folded, columns)
    return AgentNetwork(
        agent=team.spec.agents[i],
        seen=seen,
        centre=team.mean[i].numpy()[seen],
        scale=_single(1 / team.std[i].double())[seen],
        motion=_single(1 / team.motion_std[i].double())[seen] if moving else None,
        last_action=asked.last_action,
        drawn=visible is None,
        mask_input=asked.mask and visible is None,
        trunk=trunk,
        cell=cell,
        head=head,
    )


def compact_expert(expert: Expert) -> tuple[AgentNetwork, ...]:
    """Return the network of every agent of an expert that kd-offline trained, as for deployment.

    Agents that share a network carry a copy each, in which the id that tells them apart is part of
    a bias. Sides that the expert did not learn are those of its opponents.

    Raises
    ------
    UsageError
        It is of another library, its actors see more than their own observations, or its opponents
        are or do.
    """
    if expert.team is None:
        msg = f"expert {expert.reference!r} is of another library, so its networks are not exported"
        raise UsageError(msg)
    team = expert.team.actors
    if (view := team.architecture.view) != "local":
        msg = (
            f"expert {expert.reference!r} acts by more than its agents' own observations (view "
            f"{view}), which no agent carries, so it is not exported: distil students from it"
        )
        raise UsageError(msg)
    sides = list(team.spec.sides)
    mask = expert.mask()
    own = {
        i: _expert_agent(team, k, i, None if mask is None else mask[i])
        for k, group in enumerate(team.groups)
        for i in group.agents
        if expert.learned_sides is None or sides[team.spec.side_of[i]] in expert.learned_sides
    }
    if expert.opponents is not None:
        own = dict(enumerate(compact_expert(expert.opponents))) | own
    return tuple(own[i] for i in range(team.spec.n_agents))


def _expert_agent(team: ActorCritic, group: int, i: int, visible: BoolArray | None) -> AgentNetwork:
    """Return the network of agent ``i``; its inputs are features, changes, last action and id."""
    network, asked = team.actors[group], team.architecture
    assert isinstance(network, PackedNetwork)  # noqa: S101 - nn.ModuleList forgets it
    width, shared = team.spec.obs_widths[i], team.groups[group]
    features = np.ones(width, bool) if visible is None else visible[:width]
    seen = np.flatnonzero(features)
    actions = np.ones(team.spec.action_counts[i] if asked.last_action else 0, bool)
    varying = np.concatenate(
        [features, features if asked.motion else features[:0], actions, np.zeros(shared.ids, bool)]
    )
    place = len(varying) - shared.ids + shared.agents.index(i)

    def with_id(first: Folded) -> Folded:
        return first._replace(bias=first.bias + first.weight[:, place]) if shared.ids else first

    with torch.no_grad():
        folded = network.folded(inputs=with_id)
    trunk, cell, head = _layers(network, folded, varying)
    count = len(seen)
    centre, scale = np.zeros(count, np.float32), np.ones(count, np.float32)
    motion = np.full(count, MOTION_GAIN, np.float32)
    if team.scaled:
        centre, scale = team.mean[i].numpy()[seen], _single(1 / team.std[i].double())[seen]
        motion = _single(1 / team.motion_std[i].double())[seen]
    return AgentNetwork(
        agent=team.spec.agents[i],
        seen=seen,
        centre=centre,
        scale=scale,
        motion=motion if asked.motion and count else None,
        last_action=asked.last_action,
        drawn=False,
        mask_input=False,
        trunk=trunk,
        cell=cell,
        head=head,
    )


def _layers(
    network: PackedNetwork, folded: Sequence[Folded], columns: BoolArray | None
) -> tuple[tuple[Affine, ...], Cell | None, Affine]:
    """Return trunk, recurrence and head in float32; the first matrix keeps ``columns`` alone."""
    every = [Affine(_single(m.weight), _single(m.bias)) for m in folded]
    if columns is not None:
        every[0] = replace(every[0], weight=np.ascontiguousarray(every[0].weight[:, columns]))
    if (sparse := sparse_of(network.shape)) is not None:
        pairs = zip(every, sparse.kept, strict=True)
        every = [m if n is None else _sparse(m, sparse.block) for m, n in pairs]
    depth = len(network.shape.trunk)
    recurrent = every[depth:-1]
    return tuple(every[:depth]), network.cell(recurrent) if recurrent else None, every[-1]


def _sparse(matrix: Affine, block: int) -> Affine:
    """Return a matrix without the blocks of zeros."""
    rows, columns = matrix.weight.shape
    blocks = matrix.weight.reshape(rows // block, block, columns)
    return replace(matrix, kept=(blocks != 0).any(axis=1))


def _single(values: Tensor) -> Float32Array:
    return np.ascontiguousarray(values.numpy(), np.float32)
