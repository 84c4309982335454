"""Prediction of the features that a student's mask hides, from its embedding (auxiliary task).

Under a mask the expert's action depends on features that a student does not see. An embedding that
predicts them keeps what its past observations say of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation.auxiliary_heads import linear, orthogonal
from kd_offline.distillation.dataset_statistics import AliveMoments
from kd_offline.distillation.terms.base import (
    Accumulator,
    Elements,
    LossTerm,
    StudentBatch,
    TargetBatch,
    TermSettings,
    TrainingEpisodes,
)
from kd_offline.errors import Remedy, UsageError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array

_VARIES = 1e-6  # deviation below which a feature is constant


class HiddenFeaturesSettings(TermSettings):
    """Settings of the prediction of hidden features."""

    limit: float = Field(
        default=5.0, gt=0, description="limit at which features are clipped, in deviations"
    )


class HiddenFeatures(LossTerm[HiddenFeaturesSettings]):
    """Half the mean squared error of a linear head over the features that the mask hides.

    Features are in deviations of the training episodes. Those that never vary are left out.
    """

    description = "prediction of the features that the mask hides"
    settings_type = HiddenFeaturesSettings
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return nothing: observations and the mask are always read."""
        return ()

    def fit(self, episodes: TrainingEpisodes) -> Accumulator:
        """Return an accumulator of the moments of observations.

        Raises
        ------
        UsageError
            The mask hides nothing.
        """
        seen, name = episodes.buffer.mask(self.recipe.mask), self.recipe.mask
        if not _hidden(seen, episodes.spec).any():
            msg = f"the mask {name!r} hides nothing, so there is nothing to predict"
            without = Remedy("set", settings={"weights.hidden_features": 0.0})
            raise UsageError(msg, Remedy("choose another", mask=...), without)
        return AliveMoments("steps/obs", attrgetter("mean", "std"))

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return features in deviations, and which are predicted: [B, T, N, O] both."""
        seen = batch.arrays[f"masks/{self.recipe.mask}"]
        hidden = _hidden(seen if seen.ndim == 2 else seen[:, None], batch.spec)
        mean, deviation = self.statistics
        predicted = hidden & (deviation > _VARIES)
        scaled = (batch.arrays["steps/obs"] - mean) / np.maximum(deviation, _VARIES)
        limit = self.settings.limit
        features = np.where(predicted, scaled.clip(-limit, limit), 0.0).astype(np.float32)
        whole = np.broadcast_to(predicted, features.shape).copy()
        return {"features": torch.from_numpy(features), "predicted": torch.from_numpy(whole)}

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module:
        """Return a linear layer on each agent's embedding."""
        outputs = spec.obs_width
        return nn.ModuleList(
            linear(0.1 * orthogonal(outputs, width, rng), bias=True) for width in widths
        )

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the error of every agent that is alive and has hidden features, [S, N]."""
        assert isinstance(heads, nn.ModuleList)  # noqa: S101 - made above
        pairs = zip(heads, students.embeddings, strict=True)
        own = torch.stack([head(embedding) for head, embedding in pairs], -2)
        predicted = targets["predicted"]
        squares = (own - targets["features"]).square().masked_fill(~predicted, 0.0)
        count = predicted.sum(-1)
        return Elements(squares.sum(-1) / (2 * count.clamp(min=1)), students.alive * (count > 0))


def _hidden(seen: Array, spec: EnvironmentSpec) -> Array:
    """Return the features that a mask [..., N, O] hides, bool of the same shape."""
    exists = np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]
    hidden: Array = ~seen & exists
    return hidden
