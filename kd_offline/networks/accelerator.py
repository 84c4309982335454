"""Devices for networks: the processor, or a GPU that PyTorch can use."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from kd_offline.errors import UsageError


def device_named(name: str) -> torch.device:
    """Return the device that ``cpu``, ``cuda``, ``mps`` or ``auto`` means on this machine.

    ``auto`` is a GPU where there is one, and the processor otherwise.

    Raises
    ------
    UsageError
        The device is not there.
    """
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        msg = (
            f"the accelerator {name!r} is not there, or this PyTorch cannot use it: here are "
            f"{' and '.join(there)}, and auto takes the first of them"
        )
        raise UsageError(msg)
    return torch.device(name)


@runtime_checkable
class Movable(Protocol):
    """Networks, or a policy of networks, that can be computed on another device."""

    def to(self, device: torch.device) -> object:
        """Move all networks to ``device``, in place; arrays go in and come out as before."""
        ...


def moved(part: object, device: torch.device) -> bool:
    """Move ``part`` to ``device``; return False where it is tied to the processor."""
    if device.type == "cpu":
        return True
    if not isinstance(part, Movable):
        return False
    part.to(device)
    return True
