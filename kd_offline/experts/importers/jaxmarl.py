"""Import JaxMARL: a safetensors file of Flax parameters, names joined by commas."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_offline.errors import CheckpointError
from kd_offline.experts.importers.files import Tensors, below, read_safetensors, take, wrong_place
from kd_offline.experts.importers.found import Found, Given, settle
from kd_offline.experts.importers.networks import Network, activation, gru, linear, mixer
from kd_offline.files import read_file
from kd_offline.networks.mixers import QMixer

_MAX_SETTINGS = 1 << 20
_CELL = re.compile(r"ScannedRNN_\d+,GRUCell_\d+,")


def find(path: Path, reference: str, given: Given) -> Found:
    """Return the recurrent actor or Q-networks in a file, with their settings.

    Raises
    ------
    CheckpointError
        It is no such file, or holds other networks.
    """
    if not path.is_file() or path.suffix != ".safetensors":
        raise wrong_place(reference, path, "jaxmarl", "safetensors file")
    tensors = {name: v.float() for name, v in read_safetensors(path).items()}
    trees = {part: below(tensors, f"{part}params,") for part in ("agent,", "mixer,", "")}
    agent = trees["agent,"] or trees[""]
    if not agent:
        raise wrong_place(reference, path, "jaxmarl", "parameters under params,")
    file = str(path)
    logits = "Dense_2,kernel" in agent
    recipe = settle(_detected(path, logits=logits, mixed=bool(trees["mixer,"])), given)
    checkpoint = Found(
        recipe=recipe,
        actors={"": [_network(agent, recipe.activation, file)]},
        inputs=[("obs",), ("obs", "agent_id")] if logits else [("obs", "agent_id"), ("obs",)],
        files=[path],
    )
    if trees["mixer,"]:
        checkpoint.mixer = _mixer(trees["mixer,"], file)
    if logits:
        checkpoint.missing.append("a critic, so no values are recorded")
    return checkpoint


def _detected(path: Path, *, logits: bool, mixed: bool) -> dict[str, object]:
    detected: dict[str, object] = {
        "library": "jaxmarl",
        "algorithm": "mappo" if logits else "qmix" if mixed else "vdn",
        "output": "logits" if logits else "q_values",
        "hidden_reset": "death",
        "mask_constant": -1e10,
    }
    gamma = _gamma(path)
    return detected if gamma is None else detected | {"gamma": gamma}


def _gamma(path: Path) -> float | None:
    """Return the discount in the settings file beside it; None without one."""
    stem = re.sub(r"_vmap\d+.*$", "", path.stem)
    file = path.with_name(f"{stem}_config.yaml")
    if not file.is_file():
        return None
    text = read_file(file, _MAX_SETTINGS).decode("utf-8", "replace")
    line = re.search(r"^\s*GAMMA:\s*([0-9]*\.?[0-9]+)\s*$", text, re.MULTILINE)
    return None if line is None else float(line[1])


def _network(tensors: Tensors, act: str, where: str) -> Network:
    """Return ``Dense - GRU - head`` or ``Dense - GRU - Dense - head``."""
    cells = {name[: m.end()] for name in tensors if (m := _CELL.match(name))}
    if len(cells) != 1:
        msg = (
            f"{where!r} holds {len(cells)} recurrent cells, and one is known: import another "
            "network through python:package.module:factory"
        )
        raise CheckpointError(msg)
    cell = _gru(below(tensors, cells.pop()), where)
    first = [_dense(tensors, "Dense_0", where), activation(act)]
    second = _dense(tensors, "Dense_1", where)
    if "Dense_2,kernel" not in tensors:
        return Network(first, second, cell)
    return Network(first, _dense(tensors, "Dense_2", where), cell, [second, activation(act)])


def _gru(tensors: Tensors, where: str) -> nn.GRU:
    """Return the GRU of the gates' kernels [in, out]; only the new gate has a recurrent bias."""

    def joined(gates: str, kind: str) -> Tensor:
        parts = [take(tensors, f"{gates}{gate},{kind}", where) for gate in "rzn"]
        return torch.cat([part.T if part.ndim == 2 else part for part in parts])

    bias = take(tensors, "hn,bias", where)
    recurrent = torch.cat([torch.zeros(2 * len(bias)), bias])
    return gru([(joined("i", "kernel"), joined("h", "kernel"), joined("i", "bias"), recurrent)])


def _mixer(tensors: Tensors, where: str) -> QMixer:
    def hyper(k: int) -> list[nn.Linear]:
        return [_dense(tensors, f"HyperNetwork_{k},Dense_{j}", where) for j in (0, 1)]

    return mixer(hyper(0), [_dense(tensors, "Dense_0", where)], hyper(1), hyper(2))


def _dense(tensors: Tensors, name: str, where: str) -> nn.Linear:
    kernel = take(tensors, f"{name},kernel", where)
    return linear(kernel.T, take(tensors, f"{name},bias", where))
