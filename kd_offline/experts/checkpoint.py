"""Experts on disk: ``expert.json`` and ``weights.safetensors``; nothing is ever unpickled.

While training runs, ``training.safetensors`` holds everything that it continues from, in one file
so that a kill between two files cannot mix two moments. Random numbers are a function of (seed,
iteration), so there is no generator state to keep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_offline.errors import CheckpointError, MismatchError, NoCheckpointError
from kd_offline.experts import curve
from kd_offline.experts.expert import Expert
from kd_offline.experts.ppo import ValueNorm
from kd_offline.experts.team import ActorCritic
from kd_offline.experts.value_team import ValueTeam
from kd_offline.files import make_folder, read_file, remove_tree
from kd_offline.networks.files import MAX_TENSOR_BYTES, TensorFile, read_tensors, write_tensors
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertCard
from kd_offline.schemas.layers import widest
from kd_offline.sealed_json import canonical_json, read_document, write_document
from kd_offline.sealed_json import digest as sha256

CARD = "expert.json"
WEIGHTS = "weights.safetensors"
TRAINING = "training.safetensors"
CURVE = "curve.jsonl"
REMEDY = "copy or train it again"
Model = ActorCritic | ValueTeam
_NORM = "value_norm"
_BEGUN = "begun"  # of the metadata of TRAINING: which training it is the state of


def build(card: ExpertCard, *, initialise: bool = True) -> tuple[Any, ValueNorm]:
    """Return networks for a card: freshly initialised, or arbitrary ones to load weights into."""
    mask = None if card.mask is None else np.array(card.mask, bool)
    rng = np.random.Generator(np.random.Philox(card.recipe.seed)) if initialise else None
    spec, recipe = card.environment, card.recipe
    model: Model
    if recipe.value_based:
        model = ValueTeam(spec, recipe, mask, rng)
    else:
        scaled = recipe.start is not None
        model = ActorCritic(spec, recipe.architecture, mask, rng, scaled=scaled)
    return model, ValueNorm(len(spec.sides))


def save(
    folder: Path, card: ExpertCard, model: Model, norm: ValueNorm, training: dict[str, Tensor]
) -> None:
    """Write an expert, each file aside and then renamed, the card last.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    make_folder(folder)
    if training:
        write_tensors(folder / TRAINING, training, {_BEGUN: _begun(card)})
    # The card states the digest of this file, so that equal weights are equal files.
    write_tensors(folder / WEIGHTS, {**model.state_dict(), _NORM: norm.moments}, sealed=False)
    stated = {"weights": digest(folder), "curve": curve.record(folder / CURVE)}
    write_document(folder / CARD, card.model_copy(update=stated))
    if card.finished:
        remove_tree(folder / TRAINING)


def read_card(folder: Path) -> ExpertCard:
    """Read ``expert.json``.

    Raises
    ------
    CheckpointError
        There is none, or it is not one of ours.
    """
    path = folder / CARD
    if not path.is_file():
        msg = (
            f"no expert at {str(folder)!r}: it holds no {CARD}; "
            "give a folder made by kd-offline train, or "
            "bundled, bundled:large, bundled:mlp, bundled:masked"
        )
        raise NoCheckpointError(msg)
    return read_document(ExpertCard, path, REMEDY)


def load(folder: Path, reference: str, spec: EnvironmentSpec | None = None) -> Expert:
    """Load an expert and check that it fits ``spec``.

    Raises
    ------
    CheckpointError
        Missing, damaged or of another shape than its card says.
    MismatchError
        It was trained for other agents, observations or actions than ``spec`` has.
    """
    card = read_card(folder)
    if spec is not None:
        check_fits(card, spec, reference)
    if card.weights is None and card.format_version >= card.SEALED_SINCE:
        msg = f"{str(folder / CARD)!r} does not state the digest of its weights; {REMEDY}"
        raise CheckpointError(msg)
    file = read_tensors(folder / WEIGHTS, REMEDY, of_file=card.weights, required=False)
    _check_shapes(card, file)
    model, norm = build(card, initialise=False)
    tensors = file.tensors()
    norm.moments = tensors.pop(_NORM, norm.moments)
    model.load_state_dict(tensors)
    model.requires_grad_(False).eval()
    if card.parameters != model.parameter_counts():
        msg = (
            f"{str(folder / CARD)!r} states other numbers of parameters than its weights; {REMEDY}"
        )
        raise CheckpointError(msg)
    return Expert(card, sha256(file.content), model, norm, reference)


def _check_shapes(card: ExpertCard, file: TensorFile) -> None:
    """Refuse weights of other shapes than the card implies, before networks are made.

    Raises
    ------
    CheckpointError
        The first difference is named.
    """
    spec, nets, q = card.environment, card.recipe.architecture, card.recipe.q_learning
    claims = [*spec.obs_widths, *spec.action_counts, nets.gru, nets.critic_gru]
    claims += [*nets.trunk, *nets.critic_trunk, *map(widest, nets.widths or ())]
    claims += [] if q is None else [q.mixer_embedding, q.mixer_hidden]

    def state() -> dict[str, Tensor]:
        model, norm = build(card, initialise=False)
        known = {} if _NORM not in file.entries else {_NORM: norm.moments}  # not in old files
        return {**model.state_dict(), **known}

    file.check_shapes(claims, state, remedy=REMEDY)


def digest(folder: Path) -> str:
    """Return ``sha256:...`` of the weights file."""
    return sha256(read_file(folder / WEIGHTS, MAX_TENSOR_BYTES))


def read_training(folder: Path, card: ExpertCard) -> dict[str, Tensor]:
    """Return what :func:`training_state` returned when it was saved.

    Raises
    ------
    CheckpointError, StorageError
        It is missing, was altered, or is the state of another training.
    """
    remedy = "begin the training in another folder"
    required = card.format_version >= card.SEALED_SINCE
    file = read_tensors(folder / TRAINING, remedy, required=required)
    own = _begun(card)
    if file.metadata.get(_BEGUN, own) != own:  # earlier versions did not state it
        msg = f"{str(folder / TRAINING)!r} is the state of another training; {remedy}"
        raise CheckpointError(msg)
    return file.tensors()


def _begun(card: ExpertCard) -> str:
    """Return a digest of what decides the bits of a training, but for threads."""
    decides = {"environment", "recipe", "mask"}
    return sha256(canonical_json(card.model_dump(mode="json", include=decides)))


def check_fits(card: ExpertCard, spec: EnvironmentSpec, reference: str) -> None:
    """Raise ``MismatchError`` unless an expert of ``card`` can act in ``spec``."""
    ours = card.environment
    for name in ("id", "agents", "obs_widths", "action_counts", "sides"):
        if getattr(ours, name) != getattr(spec, name):
            got, want = (json.dumps(getattr(s, name)) for s in (ours, spec))
            msg = (
                f"expert {reference!r} does not fit {spec.id}: its {name} are {got}, the "
                f"environment's are {want}; choose an expert trained for it, or train one"
            )
            raise MismatchError(msg)


def training_state(
    model: Model,
    targets: Model | None,
    norm: ValueNorm,
    optimiser: torch.optim.Optimizer,
    done: Mapping[str, int],
) -> dict[str, Tensor]:
    """Return copies of everything that training continues from, as named tensors.

    ``done`` says by name how far it has come.
    """
    out = {name: torch.tensor(count) for name, count in done.items()} | {_NORM: norm.moments}
    out |= {f"model.{name}": value for name, value in model.state_dict().items()}
    if targets is not None:
        out |= {f"targets.{name}": value for name, value in targets.state_dict().items()}
    for index, entry in optimiser.state_dict()["state"].items():
        out |= {f"adam.{index}.{name}": torch.as_tensor(v) for name, v in entry.items()}
    return {name: value.detach().clone() for name, value in out.items()}


def restore_training(
    model: Model,
    targets: Model | None,
    norm: ValueNorm,
    optimiser: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
) -> int:
    """Put what :func:`training_state` returned back, and return its iteration.

    Raises
    ------
    CheckpointError
        It is the state of another training.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    adam: dict[int, dict[str, Tensor]] = {}
    for key, value in groups.get("adam", {}).items():
        index, _, name = key.partition(".")
        adam.setdefault(int(index), {})[name] = value
    try:
        model.load_state_dict(groups["model"])
        if targets is not None:
            targets.load_state_dict(groups["targets"])
        norm.moments = tensors[_NORM].clone()
        optimiser.load_state_dict(optimiser.state_dict() | {"state": adam})
        return int(tensors["iteration"])
    except (KeyError, RuntimeError, ValueError) as error:
        msg = f"{TRAINING} does not belong to this expert: begin the training in another folder"
        raise CheckpointError(msg) from error
