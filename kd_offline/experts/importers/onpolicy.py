"""Import on-policy: ``actor.pt`` and ``critic.pt``, or a pair for each agent, and normalisers."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from kd_offline.errors import CheckpointError
from kd_offline.experts.importers.files import Tensors, read_torch, take, tensors_of, wrong_place
from kd_offline.experts.importers.found import Found, Given, debiased, settle
from kd_offline.experts.importers.networks import Network, activation, gru, linear, norm
from kd_offline.experts.importers.team import Statistics

_HEAD = "act.action_out.linear"
# Which wrapper made the run decides what the critic sees; widths tell.
_CRITIC_INPUTS = (("all_obs",), ("state",), ("obs",), ("state", "agent_id"), ("obs", "agent_id"))
_NORMALISER = ("running_mean", "running_mean_sq", "debiasing_term")


def find(path: Path, reference: str, given: Given) -> Found:
    """Return the networks and settings in the folder ``models`` of a run.

    Raises
    ------
    CheckpointError
        There are no actor files, or they hold other networks.
    """
    folder = path if path.is_dir() else path.parent
    actors = _files(folder, "actor")
    if not actors:
        raise wrong_place(reference, path, "on-policy", "actor.pt, actor_agent0.pt")
    read = [tensors_of(read_torch(file), file) for file in actors]
    recurrent = any(name.startswith("rnn.") for name in read[0])
    detected: dict[str, object] = {
        "library": "on-policy",
        "algorithm": "rmappo" if recurrent else "mappo",
        "mask_constant": -1e10,
        "value_units": "normalised",
    }
    critics = _files(folder, "critic")
    values = [tensors_of(read_torch(file), file) for file in critics]
    normaliser, statistics = _statistics(folder, values, len(actors))
    if statistics is not None:
        detected["value_units"] = "raw"
    recipe = settle(detected, given)
    act = recipe.activation
    checkpoint = Found(
        recipe=recipe,
        actors={"": [_network(t, _HEAD, act, f) for t, f in zip(read, actors, strict=True)]},
        inputs=(("obs",), ("obs", "agent_id"), ("obs", "last_action", "agent_id")),
        files=[*actors, *critics, *normaliser],
        critics={"": [_network(t, "v_out", act, f) for t, f in zip(values, critics, strict=True)]}
        if critics
        else {},
        critic_inputs=_CRITIC_INPUTS,
        statistics=statistics,
    )
    _note_missing(checkpoint, given, bool(critics))
    return checkpoint


def _note_missing(checkpoint: Found, given: Given, critic: bool) -> None:
    if "activation" not in given:
        checkpoint.missing.append(
            "the activation, which the files do not state: ReLU is assumed, and a run "
            'without it needs activation = "tanh" in an expert.toml'
        )
    if not critic:
        checkpoint.missing.append("critic.pt, so no values are recorded")
    elif checkpoint.statistics is None and checkpoint.recipe.value_units == "normalised":
        checkpoint.missing.append("the statistics of the value normaliser")


def _files(folder: Path, kind: str) -> list[Path]:
    """Return ``kind.pt``, or ``kind_agent<i>.pt`` in the order of the agents."""
    if (folder / f"{kind}.pt").is_file():
        return [folder / f"{kind}.pt"]
    numbered = {
        int(m[1]): file
        for file in folder.glob(f"{kind}_agent*.pt")
        if (m := re.fullmatch(rf"{kind}_agent(\d+)\.pt", file.name))
    }
    return [numbered[i] for i in sorted(numbered)]


def _network(tensors: Tensors, head: str, act: str, file: Path) -> Network:
    where = str(file)
    if f"{head}.weight" not in tensors:
        msg = (
            f"{where!r} has no {head}.weight: only networks with one discrete action (or value) "
            "for vector observations can be imported; a run on a GPU may have left the value "
            "head out, then remove the critic file"
        )
        raise CheckpointError(msg)
    before: list[nn.Module] = []
    if "base.feature_norm.weight" in tensors:
        before.append(_norm(tensors, "base.feature_norm", where))
    for name in _blocks(tensors, where):
        before += [_linear(tensors, f"{name}.0", where), activation(act)]
        before.append(_norm(tensors, f"{name}.2", where))
    out = _linear(tensors, head, where)
    if "rnn.rnn.weight_ih_l0" not in tensors:
        return Network(before, out)
    return Network(before, out, _gru(tensors, where), [_norm(tensors, "rnn.norm", where)])


def _blocks(tensors: Tensors, where: str) -> list[str]:
    """Return the names of the dense blocks; ``fc_h`` is a template that no forward pass uses."""
    take(tensors, "base.mlp.fc1.0.weight", where)
    pattern = re.compile(r"base\.mlp\.fc2\.(\d+)\.0\.weight")
    later = sorted(int(m[1]) for name in tensors if (m := pattern.fullmatch(name)))
    return ["base.mlp.fc1", *(f"base.mlp.fc2.{k}" for k in later)]


def _gru(tensors: Tensors, where: str) -> nn.GRU:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    layers = sum(name.startswith("rnn.rnn.weight_ih_l") for name in tensors)
    return gru(
        [
            tuple(take(tensors, f"rnn.rnn.{n}_l{k}", where) for n in names)  # type: ignore[misc]
            for k in range(layers)
        ]
    )


def _statistics(
    folder: Path, critics: list[Tensors], teams: int
) -> tuple[list[Path], Statistics | None]:
    """Return files and statistics of the normalisers: PopArt in the critic, or ValueNorm files."""
    popart = ("v_out.mean", "v_out.mean_sq", "v_out.debiasing_term")
    if critics and all(name in tensors for tensors in critics for name in popart):
        parts = [debiased(*(tensors[name] for name in popart)) for tensors in critics]
        return [], _joined(parts)
    files = _normaliser_files(folder, teams)
    read = [tensors_of(read_torch(file), file) for file in files]
    if not read or not all(name in tensors for tensors in read for name in _NORMALISER):
        return [], None
    return files, _joined([debiased(*(tensors[n] for n in _NORMALISER)) for tensors in read])


def _normaliser_files(folder: Path, teams: int) -> list[Path]:
    """Return the normaliser of a shared run, or all of a separated run, in either spelling."""
    for stem in ("vnorm", "vnrom"):
        numbered = [folder / f"{stem}_agent{i}.pt" for i in range(teams)]
        for files in ([folder / f"{stem}.pt"], numbered):
            if all(file.is_file() for file in files):
                return files
    return []


def _joined(parts: list[Statistics]) -> Statistics:
    return Statistics(torch.cat([p.mean for p in parts]), torch.cat([p.deviation for p in parts]))


def _linear(tensors: Tensors, name: str, where: str) -> nn.Linear:
    return linear(take(tensors, f"{name}.weight", where), take(tensors, f"{name}.bias", where))


def _norm(tensors: Tensors, name: str, where: str) -> nn.LayerNorm:
    return norm(take(tensors, f"{name}.weight", where), take(tensors, f"{name}.bias", where))
