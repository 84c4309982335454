"""Settings of the particle tasks."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from kd_offline.schemas.bounds import Steps
from kd_offline.schemas.environment import Scalar, Strict


class Settings(Strict):
    """Settings that every particle task shares.

    ``dtype`` is the precision of the world; observations are float32 either way.
    """

    episode_limit: Steps = 25
    dtype: Literal["float64", "float32"] = "float64"

    @property
    def world_dtype(self) -> np.dtype[np.floating]:
        """The precision of the world as a NumPy type."""
        return np.dtype(self.dtype)

    def recorded(self) -> dict[str, Scalar]:
        """Return the settings as recorded in a spec; the precision only when it is unusual."""
        kwargs: dict[str, Scalar] = self.model_dump()
        if self.dtype == "float64":
            del kwargs["dtype"]
        return kwargs


class SpreadSettings(Settings):
    """Settings of simple_spread."""

    n_agents: int = Field(default=3, ge=1, le=1000)
    local_ratio: float = Field(default=0.5, ge=0, le=1)


class AdversarySettings(Settings):
    """Settings of simple_adversary."""

    n_good_agents: int = Field(default=2, ge=1, le=1000)
