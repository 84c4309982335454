"""Role distributions of KD-MARL (Eq. 11): a fixed projection of the expert's embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kd_offline.datasets import ExpertBuffer
from kd_offline.schemas.recipes import LossSwitches
from kd_offline.seeding import generator
from kd_offline.types import Array, FloatArray, IntArray

_SAMPLE = 20_000
_EPISODES, _STEPS = 800, 200_000  # that the sample is drawn from, about
_ROUNDS = 25


@dataclass(frozen=True, slots=True)
class RoleModel:
    """The expert's role projection ``U_T``: float [K, H], fixed.

    If both projections were learned, mapping everything to the uniform distribution would be a
    perfect solution; so the expert's is fixed, and only the students' are learned.
    """

    projection: FloatArray
    temperature: float

    def log_roles(self, embedding: Array) -> Tensor:
        """Return log role distributions of ``embedding`` [..., H]: [..., K]."""
        u = torch.from_numpy(self.projection.astype(np.float32))
        # In parts, so that half-precision embeddings never stand in memory as floats all at once.
        parts = (
            torch.from_numpy(e).float()
            for e in np.array_split(embedding, 1 + len(embedding) // 1024)
        )
        return torch.cat([torch.log_softmax(part @ u.T / self.temperature, -1) for part in parts])

    @property
    def roles(self) -> int:
        """Number of roles, K."""
        return len(self.projection)


def fit_roles(buffer: ExpertBuffer, episodes: IntArray, switches: LossSwitches) -> RoleModel:
    """Fit ``U_T`` to a sample of the expert's embeddings; a function of the data alone."""
    n_agents = buffer.spec.n_agents
    roles = switches.roles or min(16, 2 * n_agents)
    lengths = buffer.episodes("length")[episodes]
    wanted = min(_EPISODES, max(1, int(_STEPS / lengths.mean())))
    few = episodes[:: max(1, len(episodes) // wanted)]
    data = buffer.load(["steps/embedding", "steps/alive"], few)
    alive = np.argwhere(data["steps/alive"])
    rng = generator(0, "roles")
    rows, agents = alive[rng.permutation(len(alive))[:_SAMPLE]].T
    points = data["steps/embedding"][rows, agents].astype(np.float64)
    return RoleModel(_INITIAL[switches.role_init](points, roles, rng), switches.role_temperature)


def _kmeans(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Lloyd's algorithm from random points; an empty cluster keeps its centre."""
    centres = points[rng.choice(len(points), count, replace=len(points) < count)].copy()
    for _ in range(_ROUNDS):
        distance = (centres**2).sum(1) - 2 * points @ centres.T
        nearest = distance.argmin(1)
        for k in range(count):
            mine = points[nearest == k]
            if len(mine):
                centres[k] = mine.mean(0)
    return centres


def _pca(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    _, _, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return _filled(axes[:count], count, rng)


def _random(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    return _filled(np.empty((0, points.shape[1])), count, rng)


def _filled(rows: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Fill up to ``count`` rows with orthonormal directions, repeated where H is too small."""
    width = rows.shape[1]
    while len(rows) < count:
        q, _ = np.linalg.qr(rng.standard_normal((width, width)))
        rows = np.concatenate([rows, q[: count - len(rows)]])
    return rows


_INITIAL = {"kmeans": _kmeans, "pca": _pca, "random": _random}
