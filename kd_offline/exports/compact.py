"""From a student as it was trained to the network that is carried: less, with the same answers.

Hidden features are exactly zero for a student under a fixed mask, so their columns are dropped. The
aligner, the gains and offsets of every layer normalisation and the constant bits of a fixed mask
are folded into the matrix that follows, in float64. The scaling of the inputs stays what it is, one
subtraction and one product for each feature: folding the means would cancel large numbers against
each other where a feature hardly varies, and folding the deviations would leave the rows of the
first matrix too uneven for int8.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kd_offline.exports.network import Affine, AgentNetwork, Chain
from kd_offline.students.folding import fold, kept_columns
from kd_offline.students.networks import StudentTeam
from kd_offline.students.policy import StudentPolicy
from kd_offline.types import BoolArray, Float32Array


def compact(student: StudentPolicy) -> tuple[AgentNetwork, ...]:
    """Return the deployed network of every agent of a team."""
    seen = student.mask.static
    count = student.team.spec.n_agents
    return tuple(_agent(student.team, i, None if seen is None else seen[i]) for i in range(count))


def _agent(team: StudentTeam, i: int, visible: BoolArray | None) -> AgentNetwork:
    width, asked = team.spec.obs_widths[i], team.inputs
    seen = np.flatnonzero(np.ones(width, bool) if visible is None else visible[:width])
    moving = asked.motion and len(seen) > 0
    with torch.no_grad():
        folded = fold(team, i, visible)
    every = [Affine(_single(m.weight), _single(m.bias)) for m in folded.matrices]
    if visible is not None:
        keep, _ = kept_columns(team, i, visible)
        every[0] = replace(every[0], weight=np.ascontiguousarray(every[0].weight[:, keep]))
    depth = len(folded.trunk)
    return AgentNetwork(
        agent=team.spec.agents[i],
        seen=seen,
        centre=team.mean[i].numpy()[seen],
        scale=_single(1 / team.std[i].double())[seen],
        motion=_single(1 / team.motion_std[i].double())[seen] if moving else None,
        last_action=asked.last_action,
        drawn=visible is None,
        mask_input=asked.mask and visible is None,
        trunk=tuple(every[:depth]),
        gru=_sides(every[depth:-1]) if folded.gru else None,
        head=every[-1],
    )


def _sides(matrices: list[Affine]) -> tuple[Chain, Chain]:
    half = len(matrices) // 2
    return tuple(matrices[:half]), tuple(matrices[half:])


def _single(values: Tensor) -> Float32Array:
    return np.ascontiguousarray(values.numpy(), np.float32)
