"""Import EPyMARL, PyMARL2 and PyMARL: ``agent.th`` with ``critic.th`` or ``mixer.th``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kd_offline.errors import CheckpointError
from kd_offline.experts.importers.files import (
    Tensors,
    below,
    read_settings,
    read_torch,
    take,
    tensors_of,
    wrong_place,
)
from kd_offline.experts.importers.found import Found, Given, settle
from kd_offline.experts.importers.networks import Network, activation, gru, linear, mixer, norm
from kd_offline.networks.mixers import QMixer

# How the ancestor and PyMARL2 name the four hypernetworks.
_MIXERS = (
    ("hyper_w_1", "hyper_b_1", "hyper_w_final", "V"),
    ("hyper_w1", "hyper_b1", "hyper_w2", "hyper_b2"),
)
_CRITIC_INPUTS = (
    ("state", "agent_id"),
    ("state", "last_actions", "agent_id"),
    ("state", "all_obs", "agent_id"),
    ("state", "all_obs", "last_actions", "agent_id"),
    ("obs", "agent_id"),
    ("state",),
    ("state", "all_obs"),
    ("obs",),
)


def find(library: str, path: Path, reference: str, given: Given) -> Found:
    """Return the networks and settings in a folder of ``library``: ``epymarl`` or ``pymarl2``.

    Raises
    ------
    CheckpointError
        There is no ``agent.th``, or it holds other networks.
    """
    folder = path if path.is_dir() else path.parent
    file = folder / "agent.th"
    if not file.is_file():
        raise wrong_place(reference, path, library, "agent.th")
    agent = tensors_of(read_torch(file), file)
    config = _config(folder)
    critic, mixing = folder / "critic.th", folder / "mixer.th"
    logits = config.get("agent_output_type", "") == "pi_logits" or critic.is_file()
    detected = _detected(library, config, "logits" if logits else "q_values", mixing.is_file())
    recipe = settle(detected, given)
    checkpoint = Found(
        recipe=recipe,
        actors={"": [_agent(part, recipe.activation, str(file)) for part in _each(agent)]},
        inputs=_inputs(library, config),
        files=[file],
    )
    if not config:
        checkpoint.missing.append("config.json: the inputs were told from their width")
    _add_critic(checkpoint, critic, config)
    if recipe.output == "q_values" and mixing.is_file():
        checkpoint.mixer = _mixer(tensors_of(read_torch(mixing), mixing), mixing)
        checkpoint.files = [*checkpoint.files, mixing]
    return checkpoint


def _detected(library: str, config: Given, output: str, mixed: bool) -> dict[str, Any]:
    fallback = "mappo" if output == "logits" else "qmix" if mixed else "vdn"
    constant = None if output == "q_values" else -1e10 if library == "epymarl" else -1e5
    normalised = config.get("standardise_rewards", True) or config.get("standardise_returns", False)
    return {
        "library": library,
        "algorithm": str(config.get("name", fallback)),
        "output": output,
        "mask_constant": constant,
        "value_units": "normalised" if normalised else "raw",
        "gamma": config.get("gamma", 0.99),
        "bootstrap_on_truncation": bool(config.get("add_value_last_step", False)),
    }


def _inputs(library: str, config: Given) -> list[tuple[str, ...]]:
    """Return the possible orders of input parts, the default first; flags restrict them."""
    plain = "obs_last_action" not in config and "obs_agent_id" not in config
    if plain:
        usual = [("obs", "last_action", "agent_id"), ("obs", "agent_id"), ("obs",)]
        if library == "epymarl":
            usual = [usual[1], usual[0], usual[2]]
        return [*usual, ("obs", "last_action")]
    last = ("last_action",) if config.get("obs_last_action") else ()
    ids = ("agent_id",) if config.get("obs_agent_id") else ()
    # Networks that are not shared get no id, whatever the flag says.
    return [("obs", *last, *ids), ("obs", *last)]


def _config(folder: Path) -> dict[str, Any]:
    """Return ``config.json`` if it is in the folder; the library's logger writes it elsewhere."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    content = read_settings(file)
    return content if isinstance(content, dict) else {}


def _each(agent: Tensors) -> list[Tensors]:
    """Return the tensors of the shared network, or of each agent's network."""
    numbers = {int(m[1]) for name in agent if (m := re.match(r"agents\.(\d+)\.", name))}
    return [below(agent, f"agents.{i}.") for i in sorted(numbers)] or [agent]


def _agent(tensors: Tensors, act: str, where: str) -> Network:
    first = [_linear(tensors, "fc1", where), activation(act)]
    head = _linear(tensors, "fc2", where)
    if "rnn.weight" in tensors:  # use_rnn = False leaves a dense layer of this name
        return Network([*first, _linear(tensors, "rnn", where), activation(act)], head)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    cell = gru([tuple(take(tensors, f"rnn.{n}", where) for n in names)])  # type: ignore[list-item]
    after: list[nn.Module] = []
    if "layer_norm.weight" in tensors:
        after = [norm(tensors["layer_norm.weight"], tensors["layer_norm.bias"])]
    return Network(first, head, cell, after)


def _add_critic(found: Found, file: Path, config: Given) -> None:
    if found.recipe.output == "q_values":
        return
    if not file.is_file():
        found.missing.append("critic.th, so no values are recorded")
        return
    content = read_torch(file)
    parts = content if isinstance(content, list) else _critics(tensors_of(content, file))
    act = found.recipe.activation
    found.critics = {"": [_critic(tensors_of(part, file), act, file) for part in parts]}
    found.critic_inputs = _CRITIC_INPUTS
    found.files = [*found.files, file]
    if found.recipe.value_units == "normalised":
        found.missing.append(
            "the statistics of the standardised rewards, which its library does not save"
        )


def _critics(tensors: Tensors) -> list[Tensors]:
    numbers = {int(m[1]) for name in tensors if (m := re.match(r"critics\.(\d+)\.", name))}
    return [below(tensors, f"critics.{i}.") for i in sorted(numbers)] or [tensors]


def _critic(tensors: Tensors, act: str, file: Path) -> Network:
    first, second, head = (_linear(tensors, f"fc{k}", str(file)) for k in (1, 2, 3))
    return Network([first, activation(act), second, activation(act)], head)


def _mixer(tensors: Tensors, file: Path) -> QMixer:
    for names in _MIXERS:
        if any(name.startswith(f"{names[0]}.") for name in tensors):
            return hyper_mixer(tensors, names, str(file))
    msg = f"{str(file)!r} holds no mixer of QMIX: only that one, and VDN without a file, are known"
    raise CheckpointError(msg)


def hyper_mixer(tensors: Tensors, names: tuple[str, str, str, str], where: str) -> QMixer:
    """Return the mixer with hypernetworks w1, b1, w2 and V of these names."""
    w1, b1, w2, v = (_hyper(tensors, name, where) for name in names)
    return mixer(w1, b1, w2, v)


def _hyper(tensors: Tensors, name: str, where: str) -> list[nn.Linear]:
    """Return one or two layers: ``name.weight``, or ``name.0.weight`` and ``name.2.weight``."""
    layers = [n for n in (name, f"{name}.0", f"{name}.2") if f"{n}.weight" in tensors]
    return [_linear(tensors, layer, where) for layer in layers or [name]]


def _linear(tensors: Mapping[str, Any], name: str, where: str) -> nn.Linear:
    return linear(take(tensors, f"{name}.weight", where), take(tensors, f"{name}.bias", where))
