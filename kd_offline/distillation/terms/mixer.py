"""Mixer distillation: a small mixer of the students' values predicts the expert's team value.

The mixer is that of QMIX with linear hypernetworks. It exists in training only; with ``save`` it is
kept beside the students.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation.auxiliary_heads import read_auxiliary
from kd_offline.distillation.dataset_statistics import Deviation
from kd_offline.distillation.terms.base import (
    Accumulator,
    Elements,
    LossTerm,
    RecordedBatch,
    StudentBatch,
    TargetBatch,
    TermSettings,
    TrainingEpisodes,
)
from kd_offline.distillation.values import centred, error
from kd_offline.errors import CheckpointError, MissingArrayError, Remedy
from kd_offline.networks.mixers import MixerShape, QMixer, draw_weights
from kd_offline.schemas.bounds import Width
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array

_NAME = "mixer"
_STATE = "steps/state"


class MixerSettings(TermSettings):
    """Settings of mixer distillation."""

    embedding: Width = Field(default=8, description="hidden width of the students' mixer")
    credit: float = Field(
        default=1.0, ge=0, description="weight of the squared difference of the credits"
    )
    save: bool = Field(default=False, description="keep the mixer as auxiliary.safetensors")


class TeamMixer(nn.Module):
    """A mixer, with the mean and standard deviation of state and team value as buffers."""

    state_mean: Tensor
    state_std: Tensor
    q_tot_mean: Tensor
    q_tot_std: Tensor

    def __init__(self, agents: int, state: int, embedding: int) -> None:
        super().__init__()
        self.mixer = QMixer(MixerShape(agents, state, embedding, None, None, None))
        for name, width in (("state", state), ("q_tot", 1)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))

    def forward(self, values: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mix ``values`` [..., N] of the executed actions under the recorded ``state`` [..., S].

        Returns
        -------
        q_tot : float [...]
            In deviations of the expert's, see :meth:`scaled`.
        credit : float [..., N]
            Its gradient by ``values``.
        """
        state = (state - self.state_mean) / self.state_std
        return self.mixer(values, state), self.mixer.credit(values, state)

    def scaled(self, q_tot: Tensor) -> Tensor:
        """Return the expert's team values in deviations from their mean."""
        scaled: Tensor = (q_tot - self.q_tot_mean) / self.q_tot_std
        return scaled


class Mixer(LossTerm[MixerSettings]):
    """``Huber(q_tot_S - q_tot_T) + credit |g_S - g_T|^2`` of every step.

    The students' values are their outputs for the executed actions, less the mean over the legal
    ones, in units of scaled Q-values. ``g`` is the gradient of the team value by the agents'
    values, divided by its sum: each agent's share of the credit.
    """

    description = "team value and credits of a small mixer of the students' values"
    settings_type = MixerSettings

    @property
    def saves_heads(self) -> bool:
        """Whether the mixer is kept."""
        return self.settings.save

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the arrays of the team's value, and the state where it is recorded."""
        mixed = ("steps/q_values", "steps/q_tot", "steps/mixer_credit")
        return (*mixed, *(name for name in present if name == _STATE))

    def recorded_by(self) -> Remedy:
        """Return how the arrays are recorded."""
        return Remedy(
            "record episodes of an expert that has a mixer, such as one of",
            operation="train_recipe",
            algorithm="qmix",
        )

    def fit(self, episodes: TrainingEpisodes) -> Accumulator:
        """Return an accumulator of the moments of state and team value.

        Raises
        ------
        MissingArrayError
            No state is recorded, and it is not the observations of all agents.
        """
        if not episodes.spec.state_is_obs and not episodes.buffer.has(_STATE):
            msg = (
                f"the loss term 'mixer' needs {_STATE}, not in this dataset, and the state of "
                f"{episodes.spec.id} is not made of observations: record it again, with its state"
            )
            raise MissingArrayError(msg)
        return TeamMoments(episodes.spec)

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return state [B, T, S], q_tot [B, T], shares of credit and actions [B, T, N]."""
        credit = torch.from_numpy(batch.arrays["steps/mixer_credit"]) * batch.alive
        return {
            "state": torch.from_numpy(recorded_state(batch.arrays, batch.spec)),
            "q_tot": torch.from_numpy(batch.arrays["steps/q_tot"]),
            "credit": _shares(credit),
            "action": batch.executed(),
        }

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module:
        """Return the mixer."""
        mixer = TeamMixer(
            spec.n_agents, len(self.statistics["state_mean"]), self.settings.embedding
        )
        draw_weights(mixer, rng)
        mixer.load_state_dict(self.statistics, strict=False)
        return mixer

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Mapping[str, Elements]:
        """Return the losses of team value and credits of every step with an agent alive, [S]."""
        assert isinstance(heads, TeamMixer)  # noqa: S101 - made above
        own = students.policy.parameters * self.recipe.objective.q_temperature
        chosen = centred(own, students.policy.available).gather(-1, targets["action"].unsqueeze(-1))
        acting = students.alive > 0
        q_tot, credit = heads(chosen.squeeze(-1).masked_fill(~acting, 0.0), targets["state"])
        gaps = q_tot - heads.scaled(targets["q_tot"])
        apart = (_shares(credit * acting) - targets["credit"]).square().sum(-1)
        weight = acting.any(-1).float()
        shared = weight * (targets["credit"].sum(-1) > 0)
        return {
            "mixer": Elements(error(gaps, "huber"), weight),
            "mixer_credit": Elements(apart, shared, self.settings.credit),
        }


@dataclass(slots=True)
class TeamMoments:
    """Accumulates mean and deviation of the state and of the expert's team value."""

    spec: EnvironmentSpec
    state: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    q_tot: Deviation = field(default_factory=lambda: Deviation((0, 1)))

    @property
    def arrays(self) -> Sequence[str]:
        """Team value and state."""
        return ("steps/q_tot", "steps/obs" if self.spec.state_is_obs else _STATE)

    def add(self, batch: RecordedBatch) -> None:
        """Count in the steps at which an agent is alive."""
        there: Array = np.any(batch.alive, -1, keepdims=True)
        self.state.add(recorded_state(batch.arrays, self.spec).astype(np.float64), there)
        self.q_tot.add(batch.arrays["steps/q_tot"][..., None].astype(np.float64), there)

    def finish(self) -> dict[str, Tensor]:
        """Return the buffers of a :class:`TeamMixer`; a deviation of zero is given as 1."""
        found = {}
        for name, moments in (("state", self.state), ("q_tot", self.q_tot)):
            std = np.where(moments.std > 1e-8, moments.std, 1.0)
            found[f"{name}_mean"] = torch.from_numpy(np.float32(moments.mean))
            found[f"{name}_std"] = torch.from_numpy(np.float32(std))
        return found


def recorded_state(arrays: Mapping[str, Array], spec: EnvironmentSpec) -> Array:
    """Return the state of every step, float32 [..., S]: recorded, or all agents' observations."""
    if not spec.state_is_obs:
        return arrays[_STATE]
    obs = arrays["steps/obs"]
    return np.concatenate([obs[..., i, :width] for i, width in enumerate(spec.obs_widths)], -1)


def _shares(credit: Tensor) -> Tensor:
    """Return credits divided by their sum over agents, [..., N]; 0 where all are 0."""
    return credit / credit.sum(-1, keepdim=True).clamp(min=1e-8)


def saved_mixers(run: str | Path) -> dict[int, TeamMixer]:
    """Return the mixers that a run kept, by seed.

    Raises
    ------
    CheckpointError, StorageError
        The run kept none, or the file is not that of its students.
    """
    mixers = {}
    for seed, tensors in read_auxiliary(Path(run), _NAME).items():
        try:
            # The file holds as many numbers as this product, so no more memory is asked for.
            outputs, state = tensors["mixer.w1.0.weight"].shape
            embedding = len(tensors["mixer.b1.0.bias"])
            mixer = TeamMixer(outputs // embedding, state, embedding)
            mixer.load_state_dict(tensors)
        except (KeyError, ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
            msg = f"the auxiliary networks in {str(run)!r} are no mixers: distil again"
            raise CheckpointError(msg) from error
        mixers[seed] = mixer.eval().requires_grad_(False)
    return mixers
