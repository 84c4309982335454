"""The network family as which checkpoints of all libraries are rebuilt.

``before - GRU - after - head``: dense layers, activations and layer norms around an optional GRU of
one or more layers. Sizes follow from the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from kd_offline.errors import CheckpointError
from kd_offline.networks.mixers import MixerShape, QMixer

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
_NORM, _GATES = 8, 17  # arithmetic of a layer norm and of GRU gates for each unit


class Network(nn.Module):
    """One rebuilt network; the *embedding* is the GRU's state, or what the head reads without one.

    Parameters
    ----------
    before, after
        Layers in front of and behind the GRU; all of them in ``before`` where there is none.

    Raises
    ------
    CheckpointError
        The layers do not fit each other.
    """

    def __init__(
        self,
        before: Iterable[nn.Module],
        head: nn.Linear,
        gru: nn.GRU | None = None,
        after: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.before = nn.Sequential(*before)
        self.gru = gru
        self.after = nn.Sequential(*after)
        self.head = head
        self.requires_grad_(False).eval()
        try:
            self(torch.zeros(1, self.inputs), self.start(1))
        except RuntimeError as error:
            raise CheckpointError(_MISFIT) from error

    @property
    def inputs(self) -> int:
        """Number of input features."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                return layer.in_features
            if isinstance(layer, nn.GRU):
                return layer.input_size
        return self.head.in_features

    @property
    def trunk(self) -> tuple[int, ...]:
        """Widths of the dense layers, those behind the GRU included."""
        layers = [*self.before, *self.after]
        return tuple(layer.out_features for layer in layers if isinstance(layer, nn.Linear))

    @property
    def memory_width(self) -> int:
        """Width of the GRU's state, 0 without one."""
        return 0 if self.gru is None else self.gru.hidden_size

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.head.out_features

    def start(self, rows: int) -> Tensor:
        """Return the memory at the start of ``rows`` episodes: zeros [layers, rows, H]."""
        layers = 0 if self.gru is None else self.gru.num_layers
        return torch.zeros(layers, rows, self.memory_width)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map ``x``: float [rows, I] to outputs [rows, A], embeddings [rows, H] and memory."""
        x = self.before(x)
        if self.gru is None:
            x = self.after(x)
            return self.head(x), x, memory
        _, memory = self.gru(x.unsqueeze(0), memory)
        return self.head(self.after(memory[-1])), memory[-1], memory

    def count(self) -> tuple[int, int, int]:
        """Return parameters, multiply-accumulates and elementwise operations of one decision."""
        parameters = sum(p.numel() for p in self.parameters())
        macs = elementwise = 0
        width = self.inputs
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                width = layer.out_features
                macs, elementwise = macs + layer.in_features * width, elementwise + width
            elif isinstance(layer, nn.GRU):
                steps = [layer.input_size] + [layer.hidden_size] * (layer.num_layers - 1)
                width = layer.hidden_size
                macs += sum(3 * width * (x + width) for x in steps)
                elementwise += _GATES * width * layer.num_layers
            elif isinstance(layer, nn.LayerNorm):
                elementwise += _NORM * int(layer.normalized_shape[0])
            elif type(layer) in ACTIVATIONS.values():
                elementwise += width
        return parameters, macs, elementwise


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer with ``weight`` [out, in] and ``bias`` [out]."""
    _check_axes([weight], 2)
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    return _filled(layer, {"weight": weight, "bias": bias})


def norm(weight: Tensor, bias: Tensor) -> nn.LayerNorm:
    """Return a layer norm with ``weight`` and ``bias`` [width]."""
    _check_axes([weight], 1)
    return _filled(nn.LayerNorm(len(weight), device="meta"), {"weight": weight, "bias": bias})


def activation(name: str) -> nn.Module:
    """Return an activation by its name in :data:`ACTIVATIONS`."""
    return ACTIVATIONS[name]()


def gru(layers: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> nn.GRU:
    """Return a GRU with each layer's ``weight_ih, weight_hh, bias_ih, bias_hh``, gates r, z, n."""
    _check_axes(layers[0][:2], 2)
    inputs, hidden = layers[0][0].shape[1], layers[0][1].shape[1]
    cell = nn.GRU(inputs, hidden, num_layers=len(layers), device="meta")
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return _filled(
        cell,
        {
            f"{n}_l{k}": v
            for k, layer in enumerate(layers)
            for n, v in zip(names, layer, strict=True)
        },
    )


def mixer(
    w1: Sequence[nn.Linear],
    b1: Sequence[nn.Linear],
    w2: Sequence[nn.Linear],
    v: Sequence[nn.Linear],
) -> QMixer:
    """Return the QMIX mixer of four hypernetworks of one or two linear layers each."""
    embedding, agents = b1[-1].out_features, w1[-1].out_features
    if agents % embedding:
        raise CheckpointError(_MISFIT)
    shape = MixerShape(
        agents=agents // embedding,
        state=w1[0].in_features,
        embedding=embedding,
        weights_hidden=_hidden(w1),
        bias_hidden=_hidden(b1),
        value_hidden=_hidden(v),
    )
    with torch.device("meta"):
        out = QMixer(shape)
    for layers, tensors in ((out.w1, w1), (out.b1, b1), (out.w2, w2), (out.v, v)):
        for k, layer in enumerate(tensors):
            if layers[2 * k].weight.shape != layer.weight.shape:
                raise CheckpointError(_MISFIT)
            layers[2 * k] = layer
    return out.requires_grad_(False).eval()


Layer = TypeVar("Layer", bound=nn.Module)
_MISFIT = (
    "the checkpoint's tensors have shapes that do not belong to one network: copy it again, or "
    "save it again with its library"
)


def _filled(layer: Layer, tensors: Mapping[str, Tensor]) -> Layer:
    """Return a layer, created without memory, with these tensors, which must have its sizes.

    Nothing is allocated from the size that one tensor claims for another.
    """
    try:
        layer.load_state_dict({k: v.contiguous() for k, v in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(_MISFIT) from error
    return layer


def _check_axes(tensors: Iterable[Tensor], axes: int) -> None:
    if any(tensor.ndim != axes or not tensor.numel() for tensor in tensors):
        raise CheckpointError(_MISFIT)


def _hidden(layers: Sequence[nn.Linear]) -> int | None:
    return layers[0].out_features if len(layers) > 1 else None
