"""Run the policy only on episodes of a batch that are still active.

Battles of one batch end at very different steps. The rows of a network's batch do not depend on
each other, so those of finished episodes can be left out: when no more than half of the rows are
still wanted, the memory is cut down to them. As always where a batch has another size, matrix
products may round differently in the last bit. With MKL on AVX-512 only those of fewer than a dozen
rows or with a single output, such as a critic's value, do; the last 16 rows stay together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kd_offline.types import (
    Array,
    BoolArray,
    Float32Array,
    IntArray,
    PolicyOutput,
    SeedArray,
    TeamPolicy,
    View,
)

FEWEST = 16


@runtime_checkable
class Selective(Protocol):
    """A policy whose memory can be cut down to some episodes; others are asked about all."""

    def keep(self, memory: Any, episodes: IntArray) -> Any:
        """Return the memory of ``episodes``, indices into the batch that ``memory`` is of.

        None: it cannot be cut down.
        """
        ...


@dataclass(slots=True)
class ActiveEpisodePolicy:
    """A policy in the middle of a batch of ``B`` episodes: its memory, and of which rows."""

    policy: TeamPolicy
    memory: Any
    batch: int
    rows: IntArray | None = None  # indices into the batch, ascending; None: all of it

    @classmethod
    def begin(cls, policy: TeamPolicy, seeds: SeedArray) -> ActiveEpisodePolicy:
        """Return the policy at the start of the episodes of ``seeds``."""
        return cls(policy, policy.start(seeds), len(seeds))

    def act(self, view: View, wanted: BoolArray) -> PolicyOutput:
        """Return what the policy says of ``view`` where ``wanted``: bool [B].

        Elsewhere it is what the policy happens to say, or zero. An episode that was not wanted
        must not be wanted again.
        """
        self._narrow(wanted)
        if self.rows is None:
            output, self.memory = self.policy.act(view, self.memory)
            return output
        output, self.memory = self.policy.act(select(view, self.rows), self.memory)
        return _spread(output, self.rows, self.batch)

    def _narrow(self, wanted: BoolArray) -> None:
        if not isinstance(self.policy, Selective):
            return
        known = np.arange(self.batch) if self.rows is None else self.rows
        mine = np.flatnonzero(wanted[known])
        fewest = max(FEWEST, len(mine))
        if 2 * fewest > len(known):
            return
        # Filled up with episodes that are over.
        others = np.flatnonzero(~wanted[known])[: fewest - len(mine)]
        kept = np.sort(np.concatenate([mine, others]))
        memory = self.policy.keep(self.memory, kept)
        if memory is not None:
            self.memory, self.rows = memory, known[kept]


def select(view: View, rows: IntArray) -> View:
    """Return the view of some episodes of a batch."""
    last = None if view.last_actions is None else view.last_actions[rows]
    return View(
        view.obs[rows], view.state[rows], view.available_actions[rows], view.alive[rows], last
    )


def _spread(output: PolicyOutput, rows: IntArray, batch: int) -> PolicyOutput:
    """Return what is said of ``rows`` as of the whole batch, zero elsewhere."""

    def whole(part: Array) -> Array:
        out = np.zeros((batch, *part.shape[1:]), part.dtype)
        out[rows] = part
        return out

    mix = output.mix

    def mixed(actions: IntArray) -> tuple[Float32Array, Float32Array]:
        assert mix is not None  # noqa: S101 - only handed on where there is one
        value, credit = mix(actions[rows])
        return whole(value), whole(credit)

    names = ("logits", "embedding", "value", "q_values", "q_tot_max")
    said = {name: getattr(output, name) for name in names}
    parts = {name: whole(part) for name, part in said.items() if part is not None}
    return replace(output, **parts, mix=None if mix is None else mixed)
