"""One agent's deployed network as plain arrays, and its step in NumPy.

A step takes what the agent sees, its memory and its legal actions, and returns the greedy action,
the logits and the next memory. The memory is one vector that is zero at the start of an episode::

    gru [H] | previous [k] | started [1] | last_action [A]

The first part is named by what has the memory.
``previous`` and ``started`` are there where the network takes the change of its inputs,
``last_action`` where it takes the action taken before. The step writes its own action there; who
executes another one writes that instead. A network without a memory keeps one unused zero.

A step is refused where a scaled feature or a number of the memory is NaN, infinite or beyond
:data:`LARGEST`: its logits are NaN, its action is the first legal one, and its memory stays, but
for ``last_action``. Within those bounds nothing overflows, so all engines refuse the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from kd_offline.networks.arithmetic import index_bytes
from kd_offline.networks.deployed import Affine, Cell, normalised
from kd_offline.networks.quantise import quantised
from kd_offline.types import Array, BoolArray, Float32Array, IntArray

LARGEST = 1e18
"""Largest magnitude of a scaled feature, and of a number of the memory, that a step takes."""

BESIDE_CELL = ("previous", "started", "last_action")
"""Parts of the memory that are not the cell's."""

Step = Callable[
    [Float32Array, BoolArray, Float32Array], tuple[IntArray, Float32Array, Float32Array]
]
"""``(obs [B, I], legal [B, A], memory [B, M]) -> (action [B], logits [B, A], memory [B, M])``."""


@dataclass(frozen=True, slots=True)
class AgentNetwork:
    """One agent's deployed network, without hidden columns and with folded matrices.

    An input feature is ``(obs - centre) * scale``. With ``drawn`` the mask differs by episode: the
    agent is given all features and then a bit for each (1 seen, 0 hidden). With ``mask_input`` the
    network takes those bits too.
    """

    agent: str
    seen: IntArray  # [k] indices into the agent's whole observation
    centre: Float32Array  # [k]
    scale: Float32Array  # [k]
    motion: Float32Array | None  # [k] factors of the change of each feature since the step before
    last_action: bool
    drawn: bool
    mask_input: bool
    trunk: tuple[Affine, ...]  # each followed by ReLU and normalisation
    cell: Cell | None  # what has a memory
    head: Affine

    @property
    def actions(self) -> int:
        """Number of actions, A."""
        return len(self.head.bias)

    @property
    def inputs(self) -> int:
        """Width of the input of a step, I."""
        return len(self.seen) * (1 + self.drawn)

    @property
    def matrices(self) -> dict[str, Affine]:
        """All affine maps by name, in the order of the computation."""
        named = {f"trunk.{k}": layer for k, layer in enumerate(self.trunk)}
        recurrent = {} if self.cell is None else self.cell.matrices
        return named | recurrent | {"head": self.head}

    @property
    def width(self) -> int | None:
        """Numbers of the cell's memory, H; None without a cell."""
        return None if self.cell is None else self.cell.width

    @property
    def gru(self) -> int | None:
        """Width of the memory of a plain GRU; None of another cell, or without one."""
        return self.width if "gru" in self.memory else None

    @property
    def memory(self) -> dict[str, tuple[int, int]]:
        """Half-open ranges of the parts of the memory vector."""
        sizes = {
            "gru" if self.cell is None else self.cell.name: self.width or 0,
            "previous": 0 if self.motion is None else len(self.seen),
            "started": 0 if self.motion is None else 1,
            "last_action": self.actions if self.last_action else 0,
        }
        ends = np.cumsum(list(sizes.values())).tolist()
        return {
            name: (end - size, end)
            for (name, size), end in zip(sizes.items(), ends, strict=True)
            if size
        }

    @property
    def memory_width(self) -> int:
        """Length of the memory vector, M; 1 for a network that has none."""
        return max((stop for _, stop in self.memory.values()), default=1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one step."""
        products = 0 if self.cell is None else self.cell.products
        return products + sum(m.stored for m in self.matrices.values())

    @property
    def zeros(self) -> int:
        """Weights of sparse matrices that are zero, and count nowhere."""
        return sum(m.weight.size - m.stored for m in self.matrices.values())

    @property
    def parameters(self) -> int:
        """Numbers that are stored: weights, biases, row scales and the scaling of the inputs."""
        return sum(a.size for _, a in arrays(self)) - self.zeros

    @property
    def parameter_bytes(self) -> int:
        """Bytes of those numbers, and of the indices of sparse matrices."""
        total = sum(a.nbytes for _, a in arrays(self))
        for matrix in self.matrices.values():
            if matrix.kept is not None:
                total -= (matrix.weight.size - matrix.stored) * matrix.weight.itemsize
                rows, columns = matrix.kept.shape
                total += index_bytes(rows, columns, int(matrix.kept.sum()))
        return total

    def mapped(self, change: Callable[[Affine], Affine]) -> AgentNetwork:
        """Return the network with every affine map changed."""
        cell = None if self.cell is None else self.cell.mapped(change)
        trunk = tuple(change(layer) for layer in self.trunk)
        return replace(self, trunk=trunk, cell=cell, head=change(self.head))

    def step(
        self, obs: Float32Array, legal: BoolArray, memory: Float32Array
    ) -> tuple[IntArray, Float32Array, Float32Array]:
        """Decide once for every row; see :data:`Step`."""
        usable = self.usable(obs, memory)
        if usable.all():
            return self._decide(obs, legal, memory)
        rows = usable[:, None]
        nought = np.float32(0)
        action, logits, after = self._decide(
            np.where(rows, obs, nought), legal, np.where(rows, memory, nought)
        )
        action = np.where(usable, action, legal.argmax(axis=1))
        after = np.where(rows, after, memory)
        if self.last_action:
            start, stop = self.memory["last_action"]
            after[:, start:stop] = np.eye(self.actions, dtype=np.float32)[action]
        return action, np.where(rows, logits, np.float32(np.nan)), after

    def usable(self, obs: Float32Array, memory: Float32Array) -> BoolArray:
        """Return which rows are not refused: bool [B]."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = self._scaled(obs)
        found: BoolArray = _within(scaled) & _within(memory)
        return found

    def _decide(
        self, obs: Float32Array, legal: BoolArray, memory: Float32Array
    ) -> tuple[IntArray, Float32Array, Float32Array]:
        kept = {name: memory[:, start:stop] for name, (start, stop) in self.memory.items()}
        x, now = self._inputs(obs, kept)
        for layer in self.trunk:
            x = normalised(np.maximum(layer(x), 0))
        if self.cell is not None:
            x = now[self.cell.name] = self.cell.step(x, kept[self.cell.name])
        logits = self.head(x)
        action = np.where(legal, logits, -np.inf).argmax(axis=1)
        if self.last_action:
            now["last_action"] = np.eye(self.actions, dtype=np.float32)[action]
        parts = [now[name] for name in self.memory] or [np.zeros_like(memory)]
        return action, logits, np.concatenate(parts, axis=1)

    def _inputs(
        self, obs: Float32Array, kept: dict[str, Float32Array]
    ) -> tuple[Float32Array, dict[str, Float32Array]]:
        """Return what the first matrix takes, and the memory of it."""
        bits = obs[:, len(self.seen) :]
        x = self._scaled(obs)
        parts, now = [x], {}
        if self.mask_input:
            parts.append(bits)
        if self.motion is not None:
            parts.append((x - kept["previous"]) * self.motion * kept["started"])
            now = {"previous": x, "started": np.ones_like(kept["started"])}
        if self.last_action:
            parts.append(kept["last_action"])
        return np.concatenate(parts, axis=1), now

    def _scaled(self, obs: Float32Array) -> Float32Array:
        """Return the features as the network takes them, [B, k]; zero where they are hidden."""
        features, bits = obs[:, : len(self.seen)], obs[:, len(self.seen) :]
        x: Float32Array = (features - self.centre) * self.scale
        return x * bits if self.drawn else x


def to_int8(network: AgentNetwork) -> AgentNetwork:
    """Return the network with int8 weights; biases and the scaling of the inputs stay float."""

    def change(affine: Affine) -> Affine:
        weight, scale = quantised(affine.values)
        return replace(affine, weight=weight, scale=scale)

    return network.mapped(change)


def to_floats(network: AgentNetwork) -> AgentNetwork:
    """Return the network with its weights restored, which is quicker to step with."""
    return network.mapped(lambda affine: replace(affine, weight=affine.values, scale=None))


def arrays(network: AgentNetwork) -> Iterator[tuple[str, Array]]:
    """Yield every array with its name, weights as they are stored; sparse ones with their zeros."""
    yield "centre", network.centre
    yield "scale", network.scale
    if network.motion is not None:
        yield "motion", network.motion
    for name, affine in network.matrices.items():
        yield f"{name}.weight", affine.weight
        yield f"{name}.bias", affine.bias
        if affine.scale is not None:
            yield f"{name}.scale", affine.scale


def _within(values: Float32Array) -> BoolArray:
    """Return which rows have no NaN and nothing beyond the largest number: bool [B]."""
    within: BoolArray = np.abs(values) <= np.float32(LARGEST)
    return np.asarray(within.all(axis=1))
