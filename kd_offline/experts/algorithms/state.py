"""The state of a learner as named tensors, from the parts that it consists of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Part = nn.Module | torch.optim.Optimizer | Tensor
"""A network, its optimiser, or a tensor that changes in place."""


def tensors_of(parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """Return copies of the tensors of all parts, named ``part`` or ``part.name``.

    Names of an optimiser's tensors are ``part.index.name``, with the index of a parameter.
    """
    out: dict[str, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, Tensor):
            out[name] = part
        elif isinstance(part, nn.Module):
            out |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
        else:
            for index, entry in part.state_dict()["state"].items():
                present = {k: v for k, v in entry.items() if v is not None}
                out |= {f"{name}.{index}.{k}": torch.as_tensor(v) for k, v in present.items()}
    return {name: value.detach().clone() for name, value in out.items()}


def put_back(parts: Mapping[str, Part], tensors: Mapping[str, Tensor]) -> None:
    """Restore parts of these names from the tensors that :func:`tensors_of` returned.

    Raises
    ------
    KeyError, ValueError, RuntimeError
        A part's tensors are missing, or have other shapes.
    """
    for name, part in parts.items():
        if isinstance(part, Tensor):
            part.copy_(tensors[name])
            continue
        start = f"{name}."
        own_tensors = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        if isinstance(part, nn.Module):
            part.load_state_dict(own_tensors)
        else:
            _restore_optimiser(part, own_tensors)


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
