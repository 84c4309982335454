"""The protocol of a batched environment."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from kd_offline.schemas.environment import EnvironmentSpec, FullObservation
from kd_offline.types import BoolArray, Float32Array, IntArray, Outcome, SeedArray, View


class BatchedEnvironment(Protocol):
    """``B`` environments stepped at once; a single one is ``B = 1``.

    An episode depends on its own seed and actions alone, never on ``B`` or on its slot. There is no
    automatic reset: the observation after the last transition is always returned. A finished slot
    ignores its actions, repeats its last view and end flags, and pays zero reward until it is
    reset. Returned arrays are new or never written again by the environment.

    An agent is ``alive`` in a view where it acts, and then has a legal action. An agent that waits
    for its turn is not alive; it has its observation and no legal action. An agent that is gone has
    zeros. While an episode runs, at least one agent is alive in every view.
    """

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description: names, widths, blocks, sides."""
        ...

    def reset(self, seeds: SeedArray) -> View:
        """Start ``B = len(seeds)`` episodes; ``seeds``: uint64 [B]."""
        ...

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the slots where ``where`` (bool [B]) with their ``seeds`` (uint64 [B])."""
        ...

    def step(self, actions: IntArray) -> Outcome:
        """Apply ``actions``: int [B, N]; those of agents that are not alive are ignored."""
        ...

    def close(self) -> None:
        """Release what the environment holds."""
        ...


@runtime_checkable
class FullyObservable(Protocol):
    """Optional protocol of an environment that offers full observations.

    Teachers may see with nothing hidden what their students see in part. The ``spec`` of the
    environment does not hold ``full``: loops put it there where full observations are used.
    """

    @property
    def full(self) -> FullObservation | None:
        """Widths and blocks of full observations; None where nothing is hidden."""
        ...

    def full_observations(self) -> Float32Array:
        """Return the full observation of each agent in the current views: a new array [B, N, F].

        It is padded with zeros as observations are, and zero for an agent that is gone. Episodes
        do not depend on whether it is called.
        """
        ...
