"""Experts on disk: ``expert.json`` and ``weights.safetensors``, without pickled objects.

During training, ``training.safetensors`` holds everything that it resumes from, in one file, so
that a kill cannot leave files of two different iterations. Random numbers follow from (seed,
iteration), so no generator state is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kd_offline.errors import CheckpointError, MismatchError, NoCheckpointError
from kd_offline.experts import curve
from kd_offline.experts.algorithms import ALGORITHMS, guarded
from kd_offline.experts.algorithms.base import Team
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.expert import TrainedExpert
from kd_offline.experts.policy_team import NORM
from kd_offline.files import make_folder, read_file, remove_tree
from kd_offline.networks.files import MAX_TENSOR_BYTES, TensorFile, read_tensors, write_tensors
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.sealed_json import canonical_json, read_document, write_document
from kd_offline.sealed_json import digest as sha256
from kd_offline.strict_json import parse

CARD = "expert.json"
WEIGHTS = "weights.safetensors"
TRAINING = "training.safetensors"
CURVE = "curve.jsonl"
REMEDY = "copy or train it again"
# Metadata of TRAINING: the digest of the training's settings, and its state without tensors.
_TRAINING_DIGEST, _PLAIN = "begun", "plain"


def build(card: ExpertCard, *, initialise: bool = True) -> Team:
    """Return the networks of a card; with ``initialise`` False their weights are arbitrary."""
    mask = None if card.mask is None else np.array(card.mask, bool)
    rng = np.random.Generator(np.random.Philox(card.recipe.seed)) if initialise else None
    name = card.recipe.algorithm
    algorithm = ALGORITHMS.load(name)
    with guarded(name, "team"):
        return algorithm.team(card.environment, card.recipe, mask, rng)


def save(
    folder: Path,
    card: ExpertCard,
    team: Team,
    training: Mapping[str, Tensor],
    plain: Mapping[str, Any],
) -> None:
    """Write an expert atomically, the card last.

    ``training`` and ``plain`` are the state from which an unfinished training is resumed.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    make_folder(folder)
    if not card.finished:
        metadata = {_TRAINING_DIGEST: _training_digest(card)} | (
            {_PLAIN: json.dumps(plain)} if plain else {}
        )
        write_tensors(folder / TRAINING, training, metadata)
    # The card states the digest of this file, so that equal weights are equal files.
    write_tensors(folder / WEIGHTS, team.weights(), sealed=False)
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


def load(folder: Path, reference: str, spec: EnvironmentSpec | None = None) -> TrainedExpert:
    """Load an expert and check that it fits ``spec``.

    Raises
    ------
    CheckpointError
        Missing, damaged or of another shape than its card says.
    MismatchError
        It was trained for other agents, observations or actions than ``spec`` has, or with another
        version of the package that its algorithm is from.
    """
    card = read_card(folder)
    ALGORITHMS.require_versions(card.parts, asked_by=f"the expert in {str(folder)!r}")
    if spec is not None:
        check_fits(card, spec, reference)
    if card.weights is None and card.format_version >= card.SEALED_SINCE:
        msg = f"{str(folder / CARD)!r} does not state the digest of its weights; {REMEDY}"
        raise CheckpointError(msg)
    file = read_tensors(folder / WEIGHTS, REMEDY, of_file=card.weights, required=False)
    _check_shapes(card, file)
    team = build(card, initialise=False)
    team.load(file.tensors())
    if card.parameters != team.parameter_counts():
        msg = (
            f"{str(folder / CARD)!r} states other numbers of parameters than its weights; {REMEDY}"
        )
        raise CheckpointError(msg)
    return TrainedExpert(card, sha256(file.content), team, reference)


def _check_shapes(card: ExpertCard, file: TensorFile) -> None:
    """Raise if weights have other shapes than the card implies, before networks are built.

    Raises
    ------
    CheckpointError
        The first difference is named.
    """
    spec = card.environment
    stated_widths = [*spec.obs_widths, *spec.action_counts, *card.recipe.widths()]

    def state() -> dict[str, Tensor]:
        weights = build(card, initialise=False).weights()
        return {
            name: tensor for name, tensor in weights.items() if name != NORM or NORM in file.entries
        }

    file.check_shapes(stated_widths, state, remedy=REMEDY)


def digest(folder: Path) -> str:
    """Return ``sha256:...`` of the weights file."""
    return sha256(read_file(folder / WEIGHTS, MAX_TENSOR_BYTES))


def read_training(folder: Path, card: ExpertCard) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the ``training`` and ``plain`` that :func:`save` wrote.

    Raises
    ------
    CheckpointError, StorageError
        They are missing, were altered, or are the state of another training.
    """
    remedy = "begin the training in another folder"
    required = card.format_version >= card.SEALED_SINCE
    file = read_tensors(folder / TRAINING, remedy, required=required)
    own = _training_digest(card)
    if file.metadata.get(_TRAINING_DIGEST, own) != own:  # earlier versions did not state it
        msg = f"{str(folder / TRAINING)!r} is the state of another training; {remedy}"
        raise CheckpointError(msg)
    try:
        plain = parse(file.metadata.get(_PLAIN, "{}").encode(), utf8=True)
    except ValueError:
        plain = None
    if not isinstance(plain, dict):
        msg = f"{str(folder / TRAINING)!r} is damaged: its metadata hold no JSON object; {remedy}"
        raise CheckpointError(msg)
    return file.tensors(), plain


def _training_digest(card: ExpertCard) -> str:
    """Return a digest of everything that determines the bits of a training, except threads."""
    decides = {"environment", "recipe", "mask"}
    return sha256(canonical_json(card.model_dump(mode="json", include=decides)))


def check_fits(card: ExpertCard, spec: EnvironmentSpec, reference: str) -> None:
    """Raise ``MismatchError`` unless an expert of ``card`` can act in ``spec``.

    Full observations are compared where ``spec`` describes them, as environments themselves do not.
    """
    trained_for = card.environment
    acts_by, given = trained_for.full, spec.full
    if acts_by is not None and given is not None and acts_by != given:
        msg = (
            f"expert {reference!r} does not fit {spec.id}: it acts by full observations of the "
            f"widths {list(acts_by.widths)}, the environment's are {list(given.widths)}; "
            "choose the settings that it was trained with"
        )
        raise MismatchError(msg)
    for name in ("id", "agents", "obs_widths", "action_counts", "sides"):
        if getattr(trained_for, name) != getattr(spec, name):
            trained, required = (json.dumps(getattr(s, name)) for s in (trained_for, spec))
            msg = (
                f"expert {reference!r} does not fit {spec.id}: its {name} are {trained}, the "
                f"environment's are {required}; choose an expert trained for it, or train one"
            )
            raise MismatchError(msg)
