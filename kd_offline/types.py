"""Axis letters, and the records that all packages share.

Axis letters, used in every docstring:

``E`` episodes, ``B`` batch, ``T`` steps, ``N`` agents, ``A`` actions, ``O`` observation width,
``F`` width of full observations, ``S`` state width, ``H`` hidden width, ``K`` roles, ``R`` rows
(transitions, episodes concatenated).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
SeedArray = npt.NDArray[np.uint64]
Int8Array = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class View:
    """Observations of a batch of teams before they act.

    Agents narrower than the widest one are padded with zeros (observations) and False (actions).
    Environments leave ``last_actions`` and ``obs_full`` out; the loops that step them fill them in,
    ``obs_full`` only where it is needed.
    """

    obs: Float32Array  # [B, N, O]
    state: Float32Array  # [B, S]
    available_actions: BoolArray  # [B, N, A]
    alive: BoolArray  # [B, N]
    last_actions: IntArray | None = None  # [B, N], executed a step ago; None in the first step
    # [B, N, F], what agents would see with nothing hidden; padded as obs
    obs_full: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a step of a batch of environments; ``view`` is the observation after the step."""

    view: View
    reward: Float32Array  # [B, N], raw reward of each agent
    terminated: BoolArray  # [B]
    truncated: BoolArray  # [B]
    won: Int8Array  # [B], 1 won, 0 not won (yet), -1 the task has no notion of winning


# A function from actions [B, N] to the team's value of them [B] and each agent's credit [B, N].
Mix = Callable[[IntArray], tuple[Float32Array, Float32Array]]


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """Outputs of a team policy for one view."""

    logits: Float32Array  # [B, N, A], raw, unmasked, temperature 1
    embedding: Float32Array | None = None  # [B, N, H]
    value: Float32Array | None = None  # [B, N], raw reward units
    # [B, N, A], raw, of a value-based policy; its logits only encode its choice of actions
    q_values: Float32Array | None = None
    q_tot_max: Float32Array | None = None  # [B], the team's value of its greedy actions
    mix: Mix | None = None  # where the agents' values are mixed to one of the team
    # other layers by name, [B, N, W] each; recorded as steps/embedding_<name>
    taps: Mapping[str, Float32Array] = field(default_factory=dict)


class TeamPolicy(Protocol):
    """A policy for a whole team, stepped on batches; the caller keeps its memory between steps.

    A policy that acts by ``View.obs_full`` has an attribute ``needs_full`` that is true.
    """

    def start(self, seeds: SeedArray) -> Any:
        """Return the memory at the start of episodes; ``seeds``: uint64 [B]."""
        ...

    def act(self, view: View, memory: Any) -> tuple[PolicyOutput, Any]:
        """Return the output for ``view`` and the memory after this step."""
        ...


def needs_full(*policies: TeamPolicy | None) -> bool:
    """Tell whether one of ``policies`` acts by full observations; None is no policy."""
    return any(getattr(policy, "needs_full", False) for policy in policies)
