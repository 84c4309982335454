"""Role alignment: distributions of embeddings over role directions (KD-MARL, Eqs. 10 and 11)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation import losses
from kd_offline.distillation.auxiliary_heads import linear, orthogonal
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
from kd_offline.distributions.categorical_tensors import last_axis_outermost, log_softmax
from kd_offline.schemas.bounds import MAX_AGENTS
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.seeding import generator
from kd_offline.types import Array, FloatArray, IntArray

_SAMPLE = 20_000
_EPISODES, _STEPS = 800, 200_000  # approximate size of the population of the sample
_ROUNDS = 25


class RoleSettings(TermSettings):
    """Settings of the role alignment."""

    roles: int | None = Field(
        default=None,
        gt=1,
        le=MAX_AGENTS,
        description="number of roles K; None: min(16, 2 N) for N agents",
    )
    temperature: float = Field(
        default=1.0, gt=0, description="temperature of both role distributions"
    )
    init: Literal["kmeans", "pca", "random"] = Field(
        default="kmeans",
        description="how the expert's projection U_T is computed from its embeddings",
    )
    learn_projection: bool = Field(
        default=True,
        description="train the students' projections U_S; False: they keep their initial values",
    )

    def count(self, n_agents: int) -> int:
        """Return K for a team of ``n_agents``."""
        return self.roles or min(16, 2 * n_agents)


class Role(LossTerm[RoleSettings]):
    """KL divergence from the expert's role distribution to the student's (Eqs. 10 and 11).

    A role distribution is ``softmax(U e / temperature)`` of an embedding ``e``. ``U_T`` is fitted
    to the expert's embeddings and fixed. Each student has its own projection ``U_S``.
    """

    description = "KL divergence between role distributions (Eqs. 10, 11)"
    settings_type = RoleSettings
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of embeddings."""
        return ("steps/embedding",)

    def fit(self, episodes: TrainingEpisodes) -> Accumulator:
        """Return an accumulator that fits the expert's projection."""
        return SampledEmbeddings(episodes, self.settings)

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the expert's log role distributions, [B, T, N, K]."""
        return {"roles": self.statistics.log_roles(batch.arrays["steps/embedding"])}

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module:
        """Return ``U_S`` of every agent, initialised with orthonormal rows or columns."""
        count = self.settings.count(spec.n_agents)
        heads = nn.ModuleList(linear(orthogonal(count, width, rng), bias=False) for width in widths)
        return heads.requires_grad_(self.settings.learn_projection)

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the divergence of every agent that is alive, [S, N]."""
        assert isinstance(heads, nn.ModuleList)  # noqa: S101 - made above
        scores = [head(e) for head, e in zip(heads, students.embeddings, strict=True)]
        # Eq. 11: the student's role distribution; Eq. 10: the divergence from the expert's.
        own = log_softmax(last_axis_outermost(torch.stack(scores, -2) / self.settings.temperature))
        return Elements(losses.divergence(targets["roles"], own), students.alive)


@dataclass(frozen=True, slots=True)
class SampledEmbeddings:
    """Loads a sample of the expert's embeddings by itself; all would not fit in memory."""

    episodes: TrainingEpisodes
    settings: RoleSettings
    arrays: Sequence[str] = ()

    def add(self, batch: RecordedBatch) -> None:
        """Do nothing."""

    def finish(self) -> RoleModel:
        """Return the fitted projection."""
        return fit_roles(self.episodes.buffer, self.episodes.indices, self.settings)


@dataclass(frozen=True, slots=True)
class RoleModel:
    """The expert's role projection ``U_T``: float [K, H], fixed.

    It is fixed because two learned projections have a trivial solution, which maps every embedding
    to the uniform distribution. Only the students' projections are learned.
    """

    projection: FloatArray
    temperature: float

    def log_roles(self, embedding: Array) -> Tensor:
        """Return log role distributions of ``embedding`` [..., H]: [..., K]."""
        u = torch.from_numpy(self.projection.astype(np.float32))
        # In parts, to limit the memory for float32 copies of half-precision embeddings.
        parts = (
            torch.from_numpy(e).float()
            for e in np.array_split(embedding, 1 + len(embedding) // 1024)
        )
        return torch.cat([torch.log_softmax(part @ u.T / self.temperature, -1) for part in parts])

    @property
    def roles(self) -> int:
        """Number of roles, K."""
        return len(self.projection)


def fit_roles(buffer: ExpertBuffer, episodes: IntArray, settings: RoleSettings) -> RoleModel:
    """Fit ``U_T`` to a sample of the expert's embeddings; deterministic for a dataset."""
    n_agents = buffer.spec.n_agents
    roles = settings.count(n_agents)
    lengths = buffer.episodes("length")[episodes]
    episode_count = min(_EPISODES, max(1, int(_STEPS / lengths.mean())))
    sampled_episodes = episodes[:: max(1, len(episodes) // episode_count)]
    data = buffer.load(["steps/embedding", "steps/alive"], sampled_episodes)
    alive = np.argwhere(data["steps/alive"])
    rng = generator(0, "roles")
    rows, agents = alive[rng.permutation(len(alive))[:_SAMPLE]].T
    points = data["steps/embedding"][rows, agents].astype(np.float64)
    return RoleModel(_INITIAL[settings.init](points, roles, rng), settings.temperature)


def _kmeans(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Return cluster centres by Lloyd's algorithm; an empty cluster keeps its centre."""
    centres = points[rng.choice(len(points), count, replace=len(points) < count)].copy()
    for _ in range(_ROUNDS):
        distance = (centres**2).sum(1) - 2 * points @ centres.T
        nearest = distance.argmin(1)
        for k in range(count):
            members = points[nearest == k]
            if len(members):
                centres[k] = members.mean(0)
    return centres


def _pca(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    _, _, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return _with_random_directions(axes[:count], count, rng)


def _random(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    return _with_random_directions(np.empty((0, points.shape[1])), count, rng)


def _with_random_directions(rows: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Return ``rows`` with orthonormal random directions added, up to ``count`` rows."""
    width = rows.shape[1]
    while len(rows) < count:
        q, _ = np.linalg.qr(rng.standard_normal((width, width)))
        rows = np.concatenate([rows, q[: count - len(rows)]])
    return rows


_INITIAL = {"kmeans": _kmeans, "pca": _pca, "random": _random}
