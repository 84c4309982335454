"""Run the policy only on episodes of a batch that are still active.

Battles of one batch end at very different steps. Rows of a network's batch are independent, so
those of finished episodes can be left out. Once at most half of the rows are active, the memory is
reduced to them. Matrix products of another batch size may round differently in the last bit. With
MKL on AVX-512 that happens only for fewer than a dozen rows, or for a single output such as a
critic's value; at least 16 rows are therefore kept.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
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
    """A policy whose memory can be reduced to some episodes; other policies run on all."""

    def keep(self, memory: Any, episodes: IntArray) -> Any:
        """Return the memory of ``episodes``, indices into the batch; None if impossible."""
        ...


@dataclass(slots=True)
class ActiveEpisodePolicy:
    """A policy during a batch of ``B`` episodes: its memory, and the rows that it holds."""

    policy: TeamPolicy
    memory: Any
    batch: int
    rows: IntArray | None = None  # indices into the batch, ascending; None: all of it

    @classmethod
    def begin(cls, policy: TeamPolicy, seeds: SeedArray) -> ActiveEpisodePolicy:
        """Return the policy at the start of the episodes of ``seeds``."""
        return cls(policy, policy.start(seeds), len(seeds))

    def act(self, view: View, active: BoolArray) -> PolicyOutput:
        """Return the policy's outputs for ``view`` where ``active``: bool [B].

        Elsewhere the outputs are arbitrary. An episode that was not active must not be active
        again.
        """
        self._narrow(active)
        if self.rows is None:
            output, self.memory = self.policy.act(view, self.memory)
            return output
        output, self.memory = self.policy.act(select(view, self.rows), self.memory)
        return _spread(output, self.rows, self.batch)

    def _narrow(self, active: BoolArray) -> None:
        if not isinstance(self.policy, Selective):
            return
        current_rows = np.arange(self.batch) if self.rows is None else self.rows
        active_positions = np.flatnonzero(active[current_rows])
        size = max(FEWEST, len(active_positions))
        if 2 * size > len(current_rows):
            return
        # Finished episodes fill up the smallest size.
        finished_positions = np.flatnonzero(~active[current_rows])[: size - len(active_positions)]
        selected = np.sort(np.concatenate([active_positions, finished_positions]))
        memory = self.policy.keep(self.memory, selected)
        if memory is not None:
            self.memory, self.rows = memory, current_rows[selected]


def select(view: View, rows: IntArray) -> View:
    """Return the view of some episodes of a batch."""
    arrays = {item.name: getattr(view, item.name) for item in fields(view)}
    chosen: dict[str, Any] = {k: None if x is None else x[rows] for k, x in arrays.items()}
    return View(**chosen)


def _spread(output: PolicyOutput, rows: IntArray, batch: int) -> PolicyOutput:
    """Return outputs of ``rows`` as outputs of the whole batch, zero elsewhere."""

    def spread(rows_values: Array) -> Array:
        result = np.zeros((batch, *rows_values.shape[1:]), rows_values.dtype)
        result[rows] = rows_values
        return result

    mix = output.mix

    def mixed(actions: IntArray) -> tuple[Float32Array, Float32Array]:
        assert mix is not None  # noqa: S101 - only handed on where there is one
        value, credit = mix(actions[rows])
        return spread(value), spread(credit)

    names = ("logits", "embedding", "value", "q_values", "q_tot_max")
    values = {name: getattr(output, name) for name in names}
    parts = {
        name: spread(rows_values) for name, rows_values in values.items() if rows_values is not None
    }
    taps = {name: spread(rows_values) for name, rows_values in output.taps.items()}
    return replace(output, **parts, mix=None if mix is None else mixed, taps=taps)
