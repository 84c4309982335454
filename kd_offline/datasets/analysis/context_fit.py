"""Predict an expert's labels and embeddings from its other recorded arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.analysis.poison_sample import Decisions, narrowed
from kd_offline.seeding import generator
from kd_offline.types import Array, FloatArray, IntArray

REGIONS = 12
"""Regions of the observations of an agent."""

_LARGEST = 6.0  # deviations; what lies beyond is put there
_FLOOR = -6.0  # log probability; what is less likely counts as this
_RIDGE = 1e-3
_EMBEDDING = 48  # columns, or projections, of an embedding that are predicted
_DRAWN = 256  # units of a drawn layer
_ROUNDS = 8  # of Lloyd's algorithm


@dataclass(frozen=True, slots=True)
class Scale:
    """Puts features into deviations; columns that hardly vary become zero."""

    mean: FloatArray
    factor: FloatArray

    @classmethod
    def of(cls, values: Array) -> Scale:
        """Return the scale of a sample, float [D, C]."""
        exact = values.astype(np.float64)
        mean, deviation = exact.mean(axis=0), exact.std(axis=0)
        varies = deviation > 1e-6 * (1 + np.abs(mean))
        return cls(mean, np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0))

    def __call__(self, values: Array) -> Array:
        """Return ``values`` in deviations, float32, at most six from zero."""
        scaled = (values - self.mean.astype(np.float32)) * self.factor.astype(np.float32)
        return np.asarray(np.clip(scaled, -_LARGEST, _LARGEST), np.float32)


class Regions:
    """Regions of an agent's observations: the cells of the nearest of some centres (k-means)."""

    def __init__(self, obs: Array, *purpose: object) -> None:
        self.scale = Scale.of(obs)
        points = self.scale(obs)
        count = min(REGIONS, len(points))
        drawn = generator(0, "audit regions", *purpose).choice(len(points), count, replace=False)
        self.centres = points[drawn]
        for _ in range(_ROUNDS):
            nearest = self._nearest(points)
            for k in range(count):
                members = points[nearest == k]
                if len(members):
                    self.centres[k] = members.mean(axis=0)

    def of(self, obs: Array) -> IntArray:
        """Return the region of each observation, int64 [D]."""
        return self._nearest(self.scale(obs))

    def _nearest(self, points: Array) -> IntArray:
        squares = np.square(self.centres).sum(axis=1) - 2 * points @ self.centres.T
        return np.asarray(squares.argmin(axis=1))

    def in_words(self, region: int, names: list[str]) -> str:
        """Return the two columns in which a region differs most from the mean, with values."""
        centre = self.centres[region]
        parts = []
        for column in np.argsort(-np.abs(centre), kind="stable")[:2].tolist():
            factor = self.scale.factor[column]
            if factor > 0:
                value = self.scale.mean[column] + centre[column] / factor
                parts.append(f"{names[column]} about {value:.2g}")
        return " and ".join(parts) or "everywhere"


@dataclass(slots=True)
class ContextFit:
    """Predicts labels and embeddings of one agent from its observations and actions so far.

    Sources are dealt out to two folds, and each fold is predicted by a ridge regression on the
    other one, so no source predicts itself. What is predicted are the log probabilities of the
    actions, without their mean, and the embedding in deviations. Without an embedding of the step
    before, a layer of drawn weights stands in for what the expert makes of the observations (Rahimi
    and Recht, 2008).

    Parameters
    ----------
    context, embedding
        Scales, from a sample.
    layer
        Drawn weights [C + 1, 256], or None.
    """

    context: Scale
    embedding: Scale | None
    layer: Array | None
    _gram: list[FloatArray] = field(default_factory=list)  # of each fold, [C, C]
    _cross: list[FloatArray] = field(default_factory=list)  # [C, A + H]
    _weights: list[FloatArray] = field(default_factory=list)

    @classmethod
    def of(cls, sample: Decisions) -> ContextFit:
        """Return a fit without sums, with the scales of a sample."""
        embedding = sample.embedding
        if embedding is not None:
            return cls(
                Scale.of(sample.context), Scale.of(narrowed(embedding, _EMBEDDING)), layer=None
            )
        width = sample.context.shape[1]
        drawn = generator(0, "audit layer", width).normal(size=(width + 1, _DRAWN))
        drawn[:-1] *= 1.5 / np.sqrt(width)
        return cls(Scale.of(sample.context), None, drawn.astype(np.float32))

    def add(self, part: Decisions, fold: int) -> None:
        """Count in decisions of a fold, 0 or 1."""
        features, targets = self._features(part), self._targets(part)
        if not self._gram:
            width = features.shape[1]
            self._gram = [np.zeros((width, width)) for _ in range(2)]
            self._cross = [np.zeros((width, targets.shape[1])) for _ in range(2)]
        self._gram[fold] += features.T @ features
        self._cross[fold] += features.T @ targets

    def solve(self) -> None:
        """Fit both regressions."""
        for gram, cross in zip(self._gram, self._cross, strict=True):
            rows = max(1.0, float(gram[-1, -1]))  # the last feature is 1
            penalty = _RIDGE * rows * np.eye(len(gram))
            self._weights.append(np.linalg.solve(gram + penalty, cross))

    def surprise(self, part: Decisions, fold: int) -> tuple[Array, Array | None]:
        """Return the distance of labels [D] and embeddings [D] from predictions of the other fold.

        That of a label is how much less likely it is than the most likely legal action, in nats;
        that of an embedding the mean squared error, in deviations.
        """
        predicted = self._features(part) @ self._weights[1 - fold].astype(np.float32)
        actions = part.legal.shape[1]
        scores = np.where(part.legal, predicted[:, :actions], -np.inf)
        of_label = np.take_along_axis(scores, part.label[:, None], axis=1)[:, 0]
        labels = (scores.max(axis=1) - of_label).astype(np.float32)
        if self.embedding is None:
            return labels, None
        error = predicted[:, actions:] - self._targets(part)[:, actions:]
        return labels, np.square(error).mean(axis=1)

    def _features(self, part: Decisions) -> Array:
        scaled = self.context(part.context)
        one = np.ones((len(scaled), 1), np.float32)
        if self.layer is None:
            return np.concatenate([scaled, one], axis=1)
        hidden = np.maximum(scaled @ self.layer[:-1] + self.layer[-1], 0.0)
        return np.concatenate([scaled, hidden, one], axis=1)

    def _targets(self, part: Decisions) -> Array:
        logs = np.maximum(part.policy, _FLOOR)
        parts = [logs - logs.mean(axis=1, keepdims=True)]
        if self.embedding is not None and part.embedding is not None:
            parts.append(self.embedding(narrowed(part.embedding, _EMBEDDING)))
        return np.concatenate(parts, axis=1).astype(np.float32)


class LinearHead:
    """The last layer of an expert, read off its recorded embeddings and outputs.

    Most experts' outputs are a linear function of the embedding that is recorded beside them. Where
    that holds, a changed output is found whatever the embedding means.

    Attributes
    ----------
    exact : bool
        The outputs follow from the embedding up to rounding.
    """

    _SHARE = 0.8  # of the sample that a fit keeps, the best explained: poison is outvoted
    _STEPS = 5

    def __init__(self, sample: Decisions) -> None:
        self.exact, self.tolerance = False, 0.0
        self.weights: FloatArray = np.zeros((0, 0))
        if sample.embedding is None:
            return
        features, outputs = _with_one(sample.embedding), sample.outputs.astype(np.float64)
        needed = 2 * features.shape[1]
        if self._SHARE * len(features) < needed:
            return
        kept = np.ones(len(features), bool)
        for _ in range(self._STEPS):
            part = features[kept]
            gram = part.T @ part
            gram += 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram))  # units may be constant
            self.weights = np.linalg.solve(gram, part.T @ outputs[kept])
            error = np.abs(outputs - features @ self.weights).max(axis=1)
            kept = error <= np.quantile(error, self._SHARE)
        spread = float(outputs[kept].std())
        usual = float(error[kept].max())
        self.exact = spread > 0 and usual <= 0.02 * spread
        self.tolerance = 10 * usual + 0.02 * spread

    def contradictions(self, part: Decisions) -> Array:
        """Return by how much another action is preferred to the label, float64 [D]; else 0."""
        if not self.exact or part.embedding is None:
            return np.zeros(len(part.label))
        predicted = np.where(part.legal, _with_one(part.embedding) @ self.weights, -np.inf)
        of_label = np.take_along_axis(predicted, part.label[:, None], axis=1)[:, 0]
        gap = predicted.max(axis=1) - of_label
        return np.where(gap > self.tolerance, gap, 0.0)


def _with_one(embedding: Array) -> FloatArray:
    values = embedding.astype(np.float64)
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)
