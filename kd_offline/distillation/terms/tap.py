"""Base of terms that compare students with inner layers of the expert.

A tap is an inner layer of the expert, recorded by its name as ``steps/embedding_<tap>``. It holds
the embedding of an expert that sees more than its students. Students of a family that has the same
layer are compared with it directly, or through a linear map if the widths differ. Other students
are compared by a linear map of their embedding. The maps exist in training only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation.auxiliary_heads import linear, orthogonal
from kd_offline.distillation.dataset_statistics import AliveMoments, Deviation
from kd_offline.distillation.terms.base import (
    Accumulator,
    LossTerm,
    StudentBatch,
    TargetBatch,
    TermSettings,
    TrainingEpisodes,
)
from kd_offline.distributions.categorical_tensors import last_axis_outermost
from kd_offline.errors import Remedy
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Float32Array, FloatArray

TAP_NAME = "^[a-z0-9_]{1,40}$"


class TapSettings(TermSettings):
    """Settings of terms on a tap."""

    tap: str = Field(pattern=TAP_NAME, description="inner layer of the expert, by its name")
    scale: Literal["dataset", "none"] = Field(
        default="dataset",
        description="dataset: subtract the mean of the recorded values and divide by the standard "
        "deviation of each agent over the dataset; none: use them as recorded",
    )


Settings = TypeVar("Settings", bound=TapSettings)


class TapTerm(LossTerm[Settings]):
    """Base of terms on a tap; subclasses return the loss between :meth:`answers` and a target."""

    any_axes = True

    @property
    def array(self) -> str:
        """Name of the recorded array."""
        return f"steps/embedding_{self.settings.tap}"

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of the tap."""
        return (self.array,)

    def recorded_by(self) -> Remedy:
        """Return which experts record the tap."""
        settings = {"architecture.view": "personalised"}
        if self.settings.tap == "z":
            settings["architecture.block"] = "hypernetwork"
        return Remedy(
            "record episodes of an expert that sees more than its students, such as one of",
            operation="train_recipe",
            settings=settings,
        )

    def fit(self, episodes: TrainingEpisodes) -> Accumulator:
        """Return an accumulator of the tap's width, mean and deviation."""
        return AliveMoments(self.array, TapStatistics.of)

    def recorded(self, batch: TargetBatch) -> Tensor:
        """Return the recorded values, float32 [B, T, N, W]; in deviations where asked for."""
        values = batch.arrays[self.array].astype(np.float32)
        if self.settings.scale == "dataset":
            values = self.statistics.normalised(values)
        # Of an agent that is not alive any number may be there, whose square may be infinite.
        return torch.from_numpy(values).masked_fill(~batch.alive.unsqueeze(-1), 0.0)

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module:
        """Return a map from each agent's tap, or else its embedding, to the recorded width."""
        target = self.statistics.width
        own = [taps.get(self.settings.tap) for taps in self.tap_widths]
        return nn.ModuleList(
            nn.Identity()
            if tap == target
            else linear(orthogonal(target, tap or width, rng), bias=True)
            for tap, width in zip(own, widths, strict=True)
        )

    def answers(self, students: StudentBatch, heads: nn.Module | None) -> Tensor:
        """Return the students' values of the tap, [S, N, W], the last axis outermost in memory."""
        assert isinstance(heads, nn.ModuleList)  # noqa: S101 - made above
        sources = students.taps.get(self.settings.tap, students.embeddings)
        each = [head(values) for head, values in zip(heads, sources, strict=True)]
        return last_axis_outermost(torch.stack(each, -2))


@dataclass(frozen=True, slots=True)
class TapStatistics:
    """Mean of every number of a tap, and one deviation for each agent.

    One deviation for all numbers keeps their proportions: a number that hardly varies stays small.
    """

    mean: FloatArray  # [N, W]
    unit: FloatArray  # [N], root mean variance; 1 where nothing varies

    @classmethod
    def of(cls, moments: Deviation) -> TapStatistics:
        """Return the statistics of the moments of a tap."""
        variance = np.square(moments.std).mean(-1)
        return cls(moments.mean, np.sqrt(np.where(variance > 1e-16, variance, 1.0)))

    @property
    def width(self) -> int:
        """Numbers of the tap, W."""
        return int(self.mean.shape[1])

    def normalised(self, values: Float32Array) -> Float32Array:
        """Return ``values`` [..., N, W] less the mean, in deviations."""
        mean, unit = self.mean.astype(np.float32), self.unit.astype(np.float32)
        with np.errstate(over="ignore"):  # of agents that are not alive
            return (values - mean) / unit[:, None]
