"""Students as team policies, and the file that they travel in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kd_offline.errors import CheckpointError, NoCheckpointError
from kd_offline.networks.files import write_tensors
from kd_offline.schemas.layers import Widths, widest
from kd_offline.schemas.student import StudentCard
from kd_offline.students.masks import Mask
from kd_offline.students.networks import StudentInputs, StudentTeam, TeamMemory, one_hot
from kd_offline.types import BoolArray, PolicyOutput, SeedArray, View

STUDENTS = "students.safetensors"


class _Memory(NamedTuple):
    team: TeamMemory
    mask: Tensor  # [N, O] or [B, N, O]


class StudentPolicy:
    """One distilled team; it masks what it is given, so the caller passes whole observations."""

    def __init__(self, card: StudentCard, seed: int, team: StudentTeam) -> None:
        self.card = card
        self.seed = seed
        self.team = team.eval().requires_grad_(False)
        self._mask = Mask(
            card.mask, fixed_mask(card), card.random_k, "", card.environment.obs_widths
        )

    @property
    def mask(self) -> Mask:
        """What the students see."""
        return self._mask

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden width of each agent's network, of its widest layer."""
        return tuple(map(widest, self.card.widths_of(self.seed)))

    @property
    def parameters(self) -> list[int]:
        """Trainable numbers of each agent's network."""
        return self.team.parameters_per_agent

    def start(self, seeds: SeedArray) -> _Memory:
        """Return the memory of fresh episodes; random masks are drawn from their seeds."""
        mask = torch.from_numpy(self._mask.for_episodes(seeds).astype(np.float32))
        return _Memory(self.team.start(len(seeds)), mask)

    @torch.inference_mode()
    def act(self, view: View, memory: _Memory) -> tuple[PolicyOutput, _Memory]:
        """Return logits [B, N, A]; students have no critic."""
        prepared = self.team.prepare(torch.from_numpy(view.obs), memory.mask).unsqueeze(0)
        last = None
        if self.team.inputs.last_action:
            last = one_hot(view.last_actions, view.available_actions.shape).unsqueeze(0)
        logits, _, after = self.team(prepared, memory.team, last)
        return PolicyOutput(logits[0].numpy()), _Memory(after, memory.mask)


def fixed_mask(card: StudentCard) -> BoolArray | None:
    """Return what the students see, [N, O]; None where that is drawn anew for every episode."""
    return None if card.mask_features is None else np.array(card.mask_features, bool)


def build(
    card: StudentCard, rng: np.random.Generator | None, widths: Sequence[Widths] | None = None
) -> StudentTeam:
    """Return a freshly initialised team for a card, of its widths where no others are given.

    ``rng``: None for a team to load weights into.
    """
    inputs = StudentInputs(card.mask_as_input, card.motion, card.last_action)
    each = card.widths if widths is None else widths
    return StudentTeam(card.environment, card.architecture, each, rng, inputs, fixed_mask(card))


def save(path: Path, card: StudentCard, teams: Sequence[StudentTeam]) -> None:
    """Write one file with a team for each of ``card.seeds``, aside and then renamed."""
    tensors = {
        f"{seed}.{name}": value
        for seed, team in zip(card.seeds, teams, strict=True)
        for name, value in team.state_dict().items()
    }
    write_tensors(path, tensors, metadata={"card": card.model_dump_json()})


def load(run: str | Path) -> list[StudentPolicy]:
    """Load the students of a run folder, or of a ``students.safetensors``: one team per seed.

    Raises
    ------
    CheckpointError
        There are none, or the file is damaged.
    """
    path = Path(run)
    path = path / STUDENTS if path.is_dir() else path
    if not path.is_file():
        msg = f"there are no students at {str(path)!r}: give a folder made by kd-offline distill"
        raise NoCheckpointError(msg)
    try:
        with safe_open(path, "pt") as file:
            card = StudentCard.model_validate_json((file.metadata() or {}).get("card", "{}"))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        msg = f"no students can be read from {str(path)!r}: {reason}; distil them again"
        raise CheckpointError(msg) from error
    return [StudentPolicy(card, seed, _restore(card, seed, tensors, path)) for seed in card.seeds]


def digest(team: StudentTeam) -> str:
    """Return a digest of names, shapes and bits of a team's weights."""
    sha = hashlib.sha256()
    for name, value in sorted(team.state_dict().items()):
        sha.update(json.dumps([name, list(value.shape)]).encode())
        sha.update(value.contiguous().numpy().tobytes())
    return "sha256:" + sha.hexdigest()


def _restore(card: StudentCard, seed: int, tensors: dict[str, Tensor], path: Path) -> StudentTeam:
    team = build(card, None, card.widths_of(seed))
    prefix = f"{seed}."
    mine = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    try:
        team.load_state_dict(mine)
    except RuntimeError as error:
        msg = f"the weights in {str(path)!r} do not have the shapes its card states: distil again"
        raise CheckpointError(msg) from error
    return team
