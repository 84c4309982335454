"""Students as team policies, and the file that stores them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_offline.errors import CheckpointError
from kd_offline.networks.arithmetic import sparse_of
from kd_offline.networks.files import tensors_digest, warn_unsealed, write_tensors
from kd_offline.schemas.layers import Widths, widest
from kd_offline.schemas.student import StudentCard
from kd_offline.students.file import CARD, REMEDY, StudentsFile, read_students
from kd_offline.students.folding import kept_columns
from kd_offline.students.masks import Mask
from kd_offline.students.networks import StudentInputs, StudentTeam, TeamMemory, one_hot
from kd_offline.types import BoolArray, PolicyOutput, SeedArray, View


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
        """The mask of the students."""
        return self._mask

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden width of each agent's network, of its widest layer."""
        return tuple(map(widest, self.card.widths_of(self.seed)))

    @property
    def parameters(self) -> list[int]:
        """Trainable numbers of each agent's network."""
        return self.team.parameters_per_agent

    def to(self, device: torch.device) -> None:
        """Compute on ``device`` from now on."""
        self.team.to(device)

    def start(self, seeds: SeedArray) -> _Memory:
        """Return the memory of fresh episodes; random masks are drawn from their seeds."""
        mask = torch.from_numpy(self._mask.for_episodes(seeds).astype(np.float32))
        return _Memory(self.team.start(len(seeds)), mask.to(self.team.device))

    @torch.inference_mode()
    def act(self, view: View, memory: _Memory) -> tuple[PolicyOutput, _Memory]:
        """Return logits [B, N, A]; students have no critic."""
        logits, after = self._step(torch.from_numpy(view.obs), view, memory)
        return PolicyOutput(logits.cpu().numpy()), after

    @property
    def differentiable(self) -> bool:
        """True: logits have a gradient by observations."""
        return True

    def differentiable_logits(self, obs: Tensor, view: View, memory: _Memory) -> Tensor:
        """Return the logits [B, N, A] for ``obs`` [B, N, O], with a graph; memory stays as it is.

        What the mask hides has no gradient.
        """
        hidden, last = memory.team
        own = TeamMemory([h.clone() for h in hidden], None if last is None else last.clone())
        return self._step(obs, view, _Memory(own, memory.mask.clone()))[0].cpu()

    def _step(self, obs: Tensor, view: View, memory: _Memory) -> tuple[Tensor, _Memory]:
        device = self.team.device
        prepared = self.team.prepare(obs.to(device), memory.mask)
        last = None
        if self.team.inputs.last_action:
            last = one_hot(view.last_actions, view.available_actions.shape).to(device).unsqueeze(0)
        logits, _, after = self.team(prepared.unsqueeze(0), memory.team, last)
        return logits[0], _Memory(after, memory.mask)


def fixed_mask(card: StudentCard) -> BoolArray | None:
    """Return the mask, bool [N, O]; None if it is drawn for every episode."""
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
    write_tensors(path, tensors, metadata={CARD: card.model_dump_json()})


def load(run: str | Path, *, of_file: str | None = None) -> list[StudentPolicy]:
    """Load the students of a folder, or of a ``students.safetensors``: one team per seed.

    The file's own digest is checked. That they are those of a run's ``run.json`` is checked by
    :func:`kd_offline.runs.complete.complete_run`.

    Raises
    ------
    CheckpointError, StorageError
        There are none, or the file was altered.
    """
    students = read_students(Path(run), of_file=of_file)
    if of_file is None and not students.file.sealed:
        warn_unsealed(students.file.path, REMEDY)
    return restore(students)


def restore(students: StudentsFile) -> list[StudentPolicy]:
    """Return the teams of a checked file.

    Raises
    ------
    CheckpointError
        The weights do not have the shapes that their card states, and nothing was allocated for
        them; or they have fewer zeros than it states.
    """
    card = students.card
    for seed in card.seeds:
        widths = card.widths_of(seed)
        claims = (*map(widest, widths), *card.environment.obs_widths)
        claims += card.environment.action_counts
        # So may be numbers among the family's settings, such as of layers.
        claims += tuple(x for _, x in card.architecture if isinstance(x, int))
        state = partial(_shapes, card, widths)
        students.file.check_shapes(claims, state, f"{seed}.", remedy=REMEDY)
    tensors = students.file.tensors()
    teams = [_restore(card, seed, tensors) for seed in card.seeds]
    for team in teams:
        _check_zeros(card, team, students.file.path)
    return [StudentPolicy(card, seed, team) for seed, team in zip(card.seeds, teams, strict=True)]


def digest(team: StudentTeam) -> str:
    """Return a digest of names, shapes and bits of a team's weights."""
    return tensors_digest(team.state_dict())


def _shapes(card: StudentCard, widths: Sequence[Widths]) -> dict[str, Tensor]:
    return build(card, None, widths).state_dict()


def _check_zeros(card: StudentCard, team: StudentTeam, path: Path) -> None:
    """Raise a ``CheckpointError`` where sparse matrices hold more weights than the card states."""
    mask = fixed_mask(card)
    for i, shape in enumerate(team.shapes):
        if (sparse := sparse_of(shape)) is None:
            continue
        weights = list(team.network(i).matrices())
        if mask is not None:
            weights[0] = weights[0][:, torch.from_numpy(kept_columns(team, i, mask[i])[0])]
        blocks = [
            int((_blocks(weight, sparse.block) != 0).any(1).sum())
            <= kept
            <= weight.numel() // sparse.block
            for weight, kept in zip(weights, sparse.kept, strict=False)
            if kept is not None and len(weight) % sparse.block == 0
        ]
        full = sum(kept is None for kept in sparse.kept)
        if (
            len(sparse.kept) != len(weights)
            or len(blocks) + full != len(weights)
            or not all(blocks)
        ):
            msg = (
                f"the weights of {card.environment.agents[i]} in {str(path)!r} are not as sparse "
                f"as their card states: the file was damaged or altered; {REMEDY}"
            )
            raise CheckpointError(msg)


def _blocks(weight: Tensor, block: int) -> Tensor:
    """Return a matrix [R, C] as [R / block, block, C]."""
    return weight.reshape(len(weight) // block, block, weight.shape[1])


def _restore(card: StudentCard, seed: int, tensors: dict[str, Tensor]) -> StudentTeam:
    team = build(card, None, card.widths_of(seed))
    prefix = f"{seed}."
    team.load_state_dict(
        {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    )
    return team
