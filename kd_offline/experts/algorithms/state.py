"""The state of a learner as named tensors, from the parts that it consists of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Part = nn.Module | torch.optim.Optimizer | Tensor
"""A network, its optimiser, or a tensor that changes in place."""


def tensors_of(parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """Return copies of everything that the parts hold: ``part``, or ``part.name`` of many.

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
                kept = {k: v for k, v in entry.items() if v is not None}
                out |= {f"{name}.{index}.{k}": torch.as_tensor(v) for k, v in kept.items()}
    return {name: value.detach().clone() for name, value in out.items()}


def put_back(parts: Mapping[str, Part], tensors: Mapping[str, Tensor]) -> None:
    """Give the parts what :func:`tensors_of` returned for parts of these names.

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
        mine = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        if isinstance(part, nn.Module):
            part.load_state_dict(mine)
        else:
            _restore_optimiser(part, mine)


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
