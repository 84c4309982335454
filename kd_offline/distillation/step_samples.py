"""A bounded sample of recorded decisions, in which the nearest to others are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from kd_offline import distributions
from kd_offline.datasets.reading.nearest import NearestSteps
from kd_offline.distillation.terms.base import RecordedBatch
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.seeding import generator
from kd_offline.types import Array, FloatArray, IntArray

_MASK_BIT = 4.0  # deviations between a feature that is seen and one that is not


@dataclass(frozen=True, slots=True)
class Sample:
    """Decisions of one agent: ``rows`` of each array, in no order.

    ``policy`` [M, A] are probabilities; ``value`` [M] is 0 where no values are read.
    """

    key: FloatArray
    obs: Array
    seen: Array
    policy: Array
    value: Array

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True, slots=True)
class SampledAgent:
    """The sample of one agent, ready to be searched."""

    sample: Sample
    deviation: FloatArray  # [O]
    nearest: NearestSteps

    @classmethod
    def of(cls, sample: Sample, deviation: FloatArray) -> SampledAgent:
        """Return a sample with its search; ``deviation`` [O] is the unit of each feature."""
        points = _view(sample.obs, sample.seen, deviation)
        return cls(sample, deviation, NearestSteps(points))

    def view(self, obs: Array, seen: Array) -> FloatArray:
        """Return views [Q, O] as points: features in deviations, and which of them are seen."""
        return _view(obs, seen, self.deviation)


def _view(obs: Array, seen: Array, scale: FloatArray) -> FloatArray:
    shown = np.broadcast_to(seen, obs.shape)
    return np.concatenate([obs / scale * shown, _MASK_BIT * shown], -1)


@dataclass(slots=True)
class StepSamples:
    """Accumulates an even sample of the decisions of every agent, for every expert.

    Parameters
    ----------
    spec
    size
        Decisions of each agent that are kept, of every expert.
    mask
        Name of the mask that decides what is seen; None: everything.
    by_expert
        Whether each expert has a sample of its own, by ``episodes/expert_id``.
    values
        Whether ``steps/value`` is read.
    """

    spec: EnvironmentSpec
    size: int
    mask: str | None = None
    by_expert: bool = False
    values: bool = False
    _rng: np.random.Generator = field(default_factory=lambda: generator(0, "step samples"))
    _kept: dict[tuple[int, int], Sample] = field(default_factory=dict)

    @property
    def arrays(self) -> Sequence[str]:
        """The arrays that the sample is taken of."""
        names = ["steps/obs", "steps/logits"]
        names += ["steps/value"] * self.values
        names += ["episodes/expert_id"] * self.by_expert
        return [*names, f"masks/{self.mask}"] if self.mask else names

    def add(self, batch: RecordedBatch) -> None:
        """Count in the decisions of a batch."""
        keys = np.full(batch.deciding.shape, np.inf)
        # Nothing is drawn for padding, so that the sample does not depend on it.
        keys[batch.deciding] = self._rng.random(int(batch.deciding.sum()))
        expert = np.zeros(len(keys), np.int64)
        if self.by_expert:
            expert = batch.arrays["episodes/expert_id"].astype(np.int64)
        for one in np.unique(expert).tolist():
            for agent in range(self.spec.n_agents):
                own = keys[..., agent].copy()
                own[expert != one] = np.inf
                self._keep((one, agent), own, batch)

    def _keep(self, place: tuple[int, int], keys: FloatArray, batch: RecordedBatch) -> None:
        before = self._kept.get(place)
        if before is not None and len(before) == self.size:
            keys = np.where(keys < before.key.max(), keys, np.inf)
        rows = np.argwhere(np.isfinite(keys))
        rows = rows[np.argsort(keys[tuple(rows.T)], kind="stable")[: self.size]]
        if not len(rows):
            return
        added = self._taken(place[1], rows, keys, batch)
        if before is not None:
            names = Sample.__slots__
            pairs = ((getattr(before, name), getattr(added, name)) for name in names)
            joined = dict(zip(names, map(np.concatenate, pairs), strict=True))
            order = np.argsort(joined["key"], kind="stable")[: self.size]
            added = Sample(**{name: values[order] for name, values in joined.items()})
        self._kept[place] = added

    def _taken(self, agent: int, rows: IntArray, keys: FloatArray, batch: RecordedBatch) -> Sample:
        """Return the decisions at ``rows`` [M, 2] of episode and step."""
        episode, step = rows.T
        arrays, at = batch.arrays, (episode, step, agent)
        seen = np.ones(self.spec.obs_width, bool)
        if self.mask is not None:
            mask = arrays[f"masks/{self.mask}"]
            seen = mask[agent] if mask.ndim == 2 else mask[episode, agent]
        logits, legal = arrays["steps/logits"][at], arrays["steps/available_actions"][at]
        policy = distributions.learned(self.spec)(torch.from_numpy(logits), torch.from_numpy(legal))
        obs = arrays["steps/obs"][at]
        value = arrays["steps/value"][at] if self.values else np.zeros(len(rows), np.float32)
        return Sample(
            key=keys[episode, step],
            obs=obs,
            seen=np.broadcast_to(seen, obs.shape),
            policy=policy.kept().exp().numpy(),
            value=value,
        )

    def finish(self) -> dict[int, list[SampledAgent | None]]:
        """Return the samples of all agents by expert; None for an agent without a decision.

        Features are in deviations of an agent's decisions of all experts.
        """
        experts = sorted({expert for expert, _ in self._kept})
        found: dict[int, list[SampledAgent | None]] = {one: [] for one in experts}
        for agent in range(self.spec.n_agents):
            own = {one: self._kept.get((one, agent)) for one in experts}
            obs = [sample.obs.astype(np.float64) for sample in own.values() if sample is not None]
            std = np.concatenate(obs).std(0) if obs else np.zeros(self.spec.obs_width)
            deviation = np.where(std > 1e-6, std, 1.0)
            for one, sample in own.items():
                searched = None if sample is None else SampledAgent.of(sample, deviation)
                found[one].append(searched)
        return found
