"""Import BenchMARL: one ``checkpoint_<frames>.pt`` with the networks of the losses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from kd_offline.errors import CheckpointError
from kd_offline.experts.importers.epymarl import hyper_mixer
from kd_offline.experts.importers.files import (
    Tensors,
    below,
    read_torch,
    take,
    tensors_of,
    wrong_place,
)
from kd_offline.experts.importers.found import Found, Given, Networks, settle
from kd_offline.experts.importers.networks import Network, activation, gru, linear
from kd_offline.networks.mixers import QMixer

_ACTOR, _CRITIC = "actor_network_params.", "critic_network_params."
_VALUES, _MIXER = "local_value_network_params.", "mixer_network_params.module."
# The same layers are named differently by kind of model, and by actor and critic.
_DENSE = re.compile(r"(?:.*\.)?mlp\.(?:params\.|\d+\.)?(\d+)\.(weight|bias)")
_CELL = re.compile(
    r"(?:.*\.)?gru\.(?:params\.|\d+\.)?grus\.(\d+)\.(weight_ih|weight_hh|bias_ih|bias_hh)"
)
_CRITIC_INPUTS = (("all_obs",), ("state",), ("state", "all_obs"), ("obs",))


def find(path: Path, reference: str, given: Given) -> Found:
    """Return the networks and settings in a checkpoint file.

    Raises
    ------
    CheckpointError
        It is no such file, or its networks are of another kind.
    """
    if not path.is_file():
        raise wrong_place(reference, path, "benchmarl", "checkpoint file (checkpoint_<frames>.pt)")
    content = read_torch(path)
    names = [str(n) for n in content] if isinstance(content, Mapping) else []
    losses = {
        n.removeprefix("loss_"): tensors_of(content[n], path) for n in names if n[:5] == "loss_"
    }
    if not losses:
        raise wrong_place(reference, path, "benchmarl", "networks under loss_<group>")
    logits = any(name.startswith(_ACTOR) for loss in losses.values() for name in loss)
    recipe = settle(_detected(losses, logits=logits), given)
    prefix, act = _ACTOR if logits else _VALUES, recipe.activation
    checkpoint = Found(
        recipe=recipe,
        actors=_networks(losses, prefix, act, path),
        inputs=[("obs",)],
        files=[path],
        critic_inputs=_CRITIC_INPUTS,
    )
    if any(name.startswith(_CRITIC) for loss in losses.values() for name in loss):
        checkpoint.critics = _networks(losses, _CRITIC, act, path)
    elif logits:
        checkpoint.missing.append("a critic, so no values are recorded")
    checkpoint.mixer = _mixer(losses, checkpoint, path)
    if "activation" not in given:
        checkpoint.missing.append(
            "the activation, which the file does not state: tanh, the library's own setting, is "
            "assumed; give activation in an expert.toml for another"
        )
    return checkpoint


def _detected(losses: Mapping[str, Tensors], *, logits: bool) -> dict[str, object]:
    first = next(iter(losses.values()))
    mixed = any(name.startswith(_MIXER) for name in first)
    gamma = first.get("_value_estimator.gamma")
    return {
        "library": "benchmarl",
        "algorithm": "mappo" if logits else "qmix" if mixed else "vdn",
        "output": "logits" if logits else "q_values",
        "activation": "tanh",
        "gamma": 0.99 if gamma is None else round(float(gamma), 6),
        "bootstrap_on_truncation": True,
    }


def _networks(losses: Mapping[str, Tensors], prefix: str, act: str, path: Path) -> Networks:
    return {
        group: [_network(t, act, path) for t in _each(below(loss, prefix))]
        for group, loss in losses.items()
    }


def _each(tensors: Tensors) -> list[Tensors]:
    """Return the tensors of each agent, or of the network that all agents share."""
    dense = [v for name, v in tensors.items() if name.endswith(("weight", "weight_ih"))]
    if not dense or dense[0].ndim == 2:
        return [tensors]
    return [{name: v[i] for name, v in tensors.items()} for i in range(len(dense[0]))]


def _network(tensors: Tensors, act: str, path: Path) -> Network:
    dense, cells = _grouped(tensors, _DENSE), _grouped(tensors, _CELL)
    unknown = [n for n in tensors if not _DENSE.fullmatch(n) and not _CELL.fullmatch(n)]
    if unknown or not dense:
        msg = (
            f"{str(path)!r} holds a network that is neither an MLP nor a GRU with one "
            f"({', '.join(sorted(unknown)[:3]) or 'no dense layers'}): wrap it in a function and "
            "give it as python:package.module:factory"
        )
        raise CheckpointError(msg)
    where = str(path)
    layers = [
        linear(take(part, "weight", where), take(part, "bias", where))
        for _, part in sorted(dense.items())
    ]
    stack = [x for layer in layers[:-1] for x in (layer, activation(act))]
    if not cells:
        return Network(stack, layers[-1])
    return Network([], layers[-1], _gru(cells, where), stack)


def _gru(cells: Mapping[int, Tensors], where: str) -> nn.GRU:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return gru(
        [
            tuple(take(cells[k], n, where) for n in names)  # type: ignore[misc]
            for k in sorted(cells)
        ]
    )


def _grouped(tensors: Tensors, pattern: re.Pattern[str]) -> dict[int, Tensors]:
    """Return the tensors of each layer, by the layer's number."""
    out: dict[int, Tensors] = {}
    for name, value in tensors.items():
        if match := pattern.fullmatch(name):
            out.setdefault(int(match[1]), {})[match[2]] = value
    return out


def _mixer(losses: Mapping[str, Tensors], found: Found, path: Path) -> QMixer | None:
    parts = [mix for loss in losses.values() if (mix := below(loss, _MIXER))]
    if len(parts) > 1:
        found.missing.append("one mixer of the whole team: there is one for each group")
    if len(parts) != 1:
        return None
    return hyper_mixer(parts[0], ("hyper_w_1", "hyper_b_1", "hyper_w_final", "V"), str(path))
