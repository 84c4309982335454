"""Actors that read a source beside their local input: DDN's fusion network and PTDE's.

The local input of an agent (its observation, its last action, its id) generates a linear map of a
*source*. In DDN (Zhou et al., 2025, section 4.2) the source is the state, or for its local policy
network the agent's own observation; in PTDE (Chen et al., 2024, arXiv 2210.08872) the state::

    hyper   = relu(H local + b)                         [m]
    W_kd    = M_0kd + sum_j hyper_j M_jkd               [source, d]
    B_d     = C_0d + sum_j hyper_j C_jd                 [d]
    s_hat   = source W + B                              [d]

Computed literally, every agent takes ``m source d`` multiply-accumulates for W alone. Sums can be
exchanged: ``P = source M + C`` [m + 1, d] is one product for all agents that read one source, and
``s_hat = P_0 + hyper P`` costs each of them ``m d`` more. The results are equal up to rounding.

DDN reads on from ``s_hat`` alone: trunk (*feature*), GRU, head. PTDE calls it ``z`` and joins it to
the state of a GRU over the local input: ``Linear - ReLU - LayerNorm`` of both, then the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd_offline.errors import UsageError
from kd_offline.networks.arithmetic import (
    FLOAT,
    DeployedInputs,
    MemoryCost,
    NetworkCost,
    NetworkShape,
    Precision,
)
from kd_offline.networks.deployed import Affine, FusionCell
from kd_offline.networks.gru import packed_gru
from kd_offline.networks.packed import (
    Folded,
    Packed,
    PackedNetwork,
    affine,
    compose,
    unchanged,
)
from kd_offline.networks.recurrent import RecurrentNetwork, orthogonal, weights_of

_NORM_AND_RELU = 8  # as in kd_offline.networks.arithmetic
_NORM = 5  # mean 1, variance 2, shift and scale 2


@dataclass(frozen=True)
class FusionShape:
    """Sizes of a network with a source, from which all costs are computed.

    ``own``: the source is the first ``source`` columns of the local input, as in DDN's local policy
    network; otherwise it stands before the local input. ``readers`` is how many agents read one
    product of the source in a step; each is charged its share of it, rounded up. ``normalised``
    applies a layer normalisation without gains to the source.
    """

    source: int
    local: int
    hyper: int  # m, width of the layer that generates the map
    width: int  # d, of s_hat or z
    dense: tuple[int, ...]  # Linear-ReLU-LayerNorm layers: of DDN after s_hat, of PTDE before h
    recurrent: int | None  # width of the GRU
    outputs: int
    joined: int | None = None  # of PTDE, the layer over (h, z); None: DDN
    own: bool = False
    readers: int = 1
    normalised: bool = False

    trunk: ClassVar[tuple[int, ...]] = ()
    gru: ClassVar[int | None] = None
    units: ClassVar[tuple[int, ...]] = ()

    @property
    def inputs(self) -> int:
        """Number of input features: source and local input, or the latter alone."""
        return self.local if self.own else self.source + self.local

    @property
    def embedding(self) -> int:
        """Width of the embedding, H."""
        return self.body.embedding

    @property
    def taps(self) -> dict[str, int]:
        """Widths of the taps by name."""
        if self.joined is not None:
            return {"z": self.width}
        return {"s_hat": self.width, "feature": (self.width, *self.dense)[-1]}

    @property
    def body(self) -> NetworkShape:
        """Dense layers, GRU and what follows them: the head, or of PTDE the joining layer."""
        if self.joined is None:
            return NetworkShape(self.width, self.dense, self.recurrent, self.outputs)
        return NetworkShape(self.local, self.dense, self.recurrent, self.joined)

    @property
    def maps(self) -> int:
        """Rows of the product of the source, (m + 1) d."""
        return (self.hyper + 1) * self.width

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in words."""
        fused = f"fusion {self.source} -> {self.width} by {self.hyper}"
        dense = [f"dense {width}" for width in self.dense]
        dense += [] if self.recurrent is None else [f"GRU {self.recurrent}"]
        if self.joined is None:
            return (fused, *dense)
        return (*dense, fused, f"dense {self.joined}")

    def cost(self) -> NetworkCost:
        """Return the exact cost of one decision, with a share of the product of the source."""
        m, d, body = self.hyper, self.width, self.body.cost()
        shared = -(-self.source * self.maps // self.readers)
        macs = self.local * m + shared + m * d + body.macs
        parameters = (self.local + 1) * m + (self.source + 1) * self.maps + body.parameters
        elementwise = 2 * m + d + -(-self.maps // self.readers) + body.elementwise
        elementwise += -(-_NORM * self.source // self.readers) if self.normalised else 0
        if self.joined is not None:
            macs += (d + self.outputs) * self.joined
            parameters += (d + 2) * self.joined + (self.joined + 1) * self.outputs
            elementwise += (1 + _NORM_AND_RELU) * self.joined + self.outputs
        return NetworkCost(parameters, macs, elementwise)

    def memory(self, precision: Precision = "fp32") -> MemoryCost:
        """Return the bytes of parameters, memory and the largest live activation.

        With ``int8`` matrix weights take one byte each and every row of a matrix one float32 scale.
        """
        matrices = sum(rows * columns for rows, columns in self.matrices())
        return self.stored(precision, self.cost().parameters - matrices, self.recurrent or 0)

    def stored(self, precision: Precision, vectors: int, kept: int) -> MemoryCost:
        """Return the bytes of the matrices and ``vectors`` numbers, and of ``kept`` numbers."""
        sizes = self.matrices()
        weights = sum(rows * columns for rows, columns in sizes)
        stored = {
            "fp32": FLOAT * (weights + vectors),
            "fp16": 2 * (weights + vectors),
            "int8": weights + FLOAT * (vectors + sum(rows for rows, _ in sizes)),
        }
        block = max(self.inputs + self.hyper + self.maps, self.maps + self.hyper + self.width)
        live = max(FLOAT * block, self.body.memory().activation or 0)
        return MemoryCost(stored[precision], FLOAT * kept, live)

    def layer_widths(self, units: Sequence[int]) -> NoReturn:
        """Refuse: there are no units that could be removed."""
        raise NotImplementedError

    def without_columns(self, hidden: int, copies: int) -> FusionShape:
        """Return it without ``hidden`` features of its own source."""
        return replace(self, source=self.source - hidden, local=self.local - copies * hidden)

    def deployed(self, inputs: DeployedInputs) -> DeployedFusion:
        """Return the network as it is exported; the source is the agent's own."""
        source = inputs.width if self.source == self.local else inputs.features
        return DeployedFusion(replace(self, source=source, local=inputs.width), inputs)

    def matrices(self) -> list[tuple[int, int]]:
        """Return rows and columns of every matrix."""
        sizes = [(self.hyper, self.local), (self.maps, self.source)]
        width = self.body.inputs
        for layer in self.dense:
            sizes.append((layer, width))
            width = layer
        if self.recurrent is not None:
            sizes += [(3 * self.recurrent, width), (3 * self.recurrent, self.recurrent)]
            width = self.recurrent
        if self.joined is None:
            return [*sizes, (self.outputs, width)]
        return [*sizes, (self.joined, width + self.width), (self.outputs, self.joined)]


@dataclass(frozen=True)
class DeployedFusion:
    """A network whose source is its own input as it is exported: gains are part of matrices."""

    shape: FusionShape
    given: DeployedInputs

    trunk: ClassVar[tuple[int, ...]] = ()
    gru: ClassVar[int | None] = None

    @property
    def inputs(self) -> int:
        """Number of input features."""
        return self.shape.inputs

    @property
    def outputs(self) -> int:
        """Number of actions."""
        return self.shape.outputs

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in words."""
        return self.shape.layers

    def cost(self) -> NetworkCost:
        """Return the exact cost of one decision."""
        return self.shape.cost()

    def memory(self, precision: Precision = "fp32") -> MemoryCost:
        """Return the bytes of the exported network."""
        biases = sum(rows for rows, _ in self.shape.matrices())
        kept = (self.shape.recurrent or 0) + self.given.kept or 1
        return self.shape.stored(precision, biases + self.given.scaling, kept)

    def with_units(self, units: Sequence[int]) -> NoReturn:
        """Refuse: there are no units that could be removed."""
        raise NotImplementedError


class FusionBlock(nn.Module):
    """``s_hat = source W + B``, where W and B are generated by the local input."""

    def __init__(self, shape: FusionShape, rng: np.random.Generator | None) -> None:
        super().__init__()
        self.shape = shape
        self.hyper = nn.Linear(shape.local, shape.hyper)
        self.maps = nn.Linear(shape.source, shape.maps)
        orthogonal(self.hyper.weight, float(np.sqrt(2.0)), rng)
        nn.init.zeros_(self.hyper.bias)
        if rng is not None:
            # Of unit variance for a source of unit variance, and as much again from the bias.
            scale = np.full((shape.hyper + 1, shape.width, 1), shape.hyper**-0.5)
            scale[-1] = 1.0
            drawn = scale.reshape(-1, 1) * rng.standard_normal((shape.maps, shape.source + 1))
            drawn[:, :-1] *= max(shape.source, 1) ** -0.5
            values = torch.from_numpy(drawn.astype(np.float32))
            with torch.no_grad():
                self.maps.weight.copy_(values[:, :-1])
                self.maps.bias.copy_(values[:, -1])

    def forward(self, source: Tensor, local: Tensor) -> Tensor:
        """Return s_hat, float [G, n, d].

        ``source``: float [G, source], ``local``: float [G, n, local], of n agents that read it.
        """
        if self.shape.normalised:
            source = functional.layer_norm(source, source.shape[-1:])
        return self.fused(self.hyper(local), self.maps(source))

    def fused(self, hyper: Tensor, maps: Tensor) -> Tensor:
        """Return s_hat of the generating layer before its ReLU [G, n, m] and the product [G, .]."""
        product = maps.view(len(maps), self.shape.hyper + 1, self.shape.width)
        return torch.baddbmm(product[:, -1:], hyper.relu(), product[:, :-1])


class SourceNetwork(PackedNetwork):
    """Base of the networks with a source, :class:`FusionNetwork` and :class:`PersonalisedNetwork`.

    ``packed`` takes rows of ``[source | local input]``, or of the local input alone where
    ``shape.own``. Where several agents read one source, :meth:`fuse` computes its product once and
    :meth:`after` goes on.
    """

    shape: FusionShape
    block: FusionBlock
    body: RecurrentNetwork

    def start(self, batch: int) -> Tensor:
        """Return the memory of ``batch`` fresh episodes: zeros [1, B, H]; width 0 without a GRU."""
        return self.body.start(batch)

    def fuse(self, source: Tensor, local: Tensor) -> Tensor:
        """Return s_hat or z, float [G, n, d].

        ``source``: float [G, source], ``local``: float [G, n, local], of n agents that read it.
        """
        fused: Tensor = self.block(source, local)
        return fused

    def after(self, fused: Tensor, local: Tensor, sizes: list[int], memory: Tensor) -> Packed:
        """Run on from packed ``fused``: float [S, d] and ``local``: float [S, local]."""
        raise NotImplementedError

    def packed(
        self, x: Tensor, sizes: list[int], memory: Tensor, columns: Tensor | None = None
    ) -> Packed:
        """Run over packed sequences, see :class:`~kd_offline.networks.packed.PackedNetwork`.

        ``columns`` are of networks whose source is their own local input.
        """
        shape, block = self.shape, self.block
        if columns is not None:
            if not shape.own or shape.normalised or shape.joined is not None:
                x = x.new_zeros(len(x), shape.inputs).index_copy(1, columns, x)
            else:
                # Column numbers grow, so the source's stand first.
                first = columns[columns < shape.source]
                hyper = functional.linear(x, block.hyper.weight[:, columns], block.hyper.bias)
                source = x[:, : len(first)]
                maps = functional.linear(source, block.maps.weight[:, first], block.maps.bias)
                fused = block.fused(hyper.unsqueeze(1), maps).squeeze(1)
                return self.after(fused, x, sizes, memory)
        local = x if shape.own else x[:, shape.source :]
        fused = self.fuse(x[:, : shape.source], local.unsqueeze(1)).squeeze(1)
        return self.after(fused, local, sizes, memory)


class FusionNetwork(SourceNetwork):
    """DDN's network: fusion block, trunk, GRU, head; taps ``s_hat`` [S, d] and ``feature`` [S, F].

    ``rng`` draws the first weights; None leaves them arbitrary, for weights that are loaded next.
    """

    def __init__(
        self, shape: FusionShape, rng: np.random.Generator | None, *, head_gain: float = 0.01
    ) -> None:
        super().__init__()
        self.shape = shape
        self.block = FusionBlock(shape, rng)
        self.body = RecurrentNetwork(shape.body, rng, head_gain=head_gain)

    def folded(
        self, before: Folded | None = None, inputs: Callable[[Folded], Folded] = unchanged
    ) -> tuple[Folded, ...]:
        """Return the matrices: of the block one that reads the whole input, then the others.

        The block's rows are those of the generating layer and then those of the product, whose
        columns behind the source are zero.
        """
        if not self.shape.own or self.shape.normalised:
            raise NotImplementedError
        hyper, maps = affine(self.block.hyper), affine(self.block.maps)
        behind = maps.weight.new_zeros(len(maps.bias), self.shape.local - self.shape.source)
        weight = torch.cat([hyper.weight, torch.cat([maps.weight, behind], 1)])
        first = compose(before, Folded(weight, torch.cat([hyper.bias, maps.bias])))
        return (inputs(first), *self.body.folded())

    def cell(self, matrices: Sequence[Affine]) -> FusionCell:
        """Return block, trunk and GRU of an exported network."""
        if self.body.gru is None:
            msg = "a fusion network without a GRU is not exported: train one with a GRU"
            raise UsageError(msg)
        first, *trunk = matrices[:-2]
        m, maps = self.shape.hyper, first.weight[self.shape.hyper :]
        read = np.flatnonzero(maps.any(axis=0))
        source = np.ascontiguousarray(maps[:, : int(read[-1]) + 1 if len(read) else 0])
        return FusionCell(
            hyper=Affine(first.weight[:m], first.bias[:m]),
            maps=Affine(source, first.bias[m:]),
            trunk=tuple(trunk),
            gru=self.body.cell(matrices[-2:]),
        )

    def run_folded(
        self, x: Tensor, sizes: list[int], memory: Tensor, matrices: Sequence[Folded]
    ) -> Packed:
        """Run with folded matrices; the taps end at ``s_hat``."""
        given = functional.linear(x, *matrices[0])
        hyper, maps = given[:, : self.shape.hyper], given[:, self.shape.hyper :]
        fused = self.block.fused(hyper.unsqueeze(1), maps).squeeze(1)
        said = self.body.run_folded(fused, sizes, memory, matrices[1:])
        return said._replace(taps={"s_hat": fused})

    def after(self, fused: Tensor, local: Tensor, sizes: list[int], memory: Tensor) -> Packed:
        """Run on from packed ``fused``: float [S, d]; the local input is not read again."""
        feature = self.body.trunk(fused)
        embedding, kept = _recurrent(self.body, feature, sizes, memory)
        taps = {"s_hat": fused, "feature": feature}
        return Packed(self.body.head(embedding), embedding, kept, taps)


class PersonalisedNetwork(SourceNetwork):
    """PTDE's network: a GRU over the local input joined to ``z``, which is its tap [S, d].

    ``rng`` draws the first weights; None leaves them arbitrary, for weights that are loaded next.
    """

    def __init__(
        self, shape: FusionShape, rng: np.random.Generator | None, *, head_gain: float = 0.01
    ) -> None:
        super().__init__()
        if shape.joined is None:
            msg = "PTDE's network needs a width of the layer over (h, z)"
            raise ValueError(msg)
        self.shape = shape
        self.block = FusionBlock(shape, rng)
        # The body's head is that part of the joining layer which reads h.
        gain = float(np.sqrt(2.0))
        self.body = RecurrentNetwork(shape.body, rng, head_gain=gain)
        self.join = nn.Linear(shape.width, shape.joined, bias=False)
        orthogonal(self.join.weight, gain, rng)
        self.norm = nn.LayerNorm(shape.joined)
        self.head = nn.Linear(shape.joined, shape.outputs)
        orthogonal(self.head.weight, head_gain, rng)
        nn.init.zeros_(self.head.bias)

    def after(self, fused: Tensor, local: Tensor, sizes: list[int], memory: Tensor) -> Packed:
        """Run on from packed ``fused``: float [S, d] and ``local``: float [S, local]."""
        embedding, kept = _recurrent(self.body, self.body.trunk(local), sizes, memory)
        outputs = self.answers(embedding, fused)
        return Packed(outputs, embedding, kept, {"z": fused})

    def answers(self, embedding: Tensor, z: Tensor) -> Tensor:
        """Return outputs [S, A] of ``embedding``: float [S, H] and ``z``: float [S, d]."""
        joined = self.body.head(embedding) + self.join(z)
        outputs: Tensor = self.head(self.norm(joined.relu()))
        return outputs


def source_network(
    shape: FusionShape, rng: np.random.Generator | None, *, head_gain: float = 0.01
) -> SourceNetwork:
    """Return a network of a shape: DDN's, or PTDE's where a joining layer has a width."""
    kind = FusionNetwork if shape.joined is None else PersonalisedNetwork
    return kind(shape, rng, head_gain=head_gain)


def _recurrent(
    body: RecurrentNetwork, x: Tensor, sizes: list[int], memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Return embedding and memory, [S, H] each, of what the trunk gave."""
    if body.gru is None:
        return x, x[:, :0]
    states = packed_gru(x, sizes, memory, weights_of(body.gru))
    return states, states
