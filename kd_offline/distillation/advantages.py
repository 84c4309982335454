"""Advantages of recorded episodes, and how well the recorded critic explains their returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kd_offline.advantage import generalised_advantage, side_mean, waiting
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import LossSwitches
from kd_offline.types import Array

_STEPS = ("reward", "value", "alive", "terminated", "truncated")


class Estimates(NamedTuple):
    """Of whole episodes, float [B, T, N]; steps behind an episode's end follow no rule."""

    value: Tensor
    error: Tensor  # discounted return minus value
    advantage: Tensor


def advantages(
    data: Mapping[str, Array], spec: EnvironmentSpec, critic: ExpertRecord, switches: LossSwitches
) -> Tensor:
    """Return the advantages of episodes, float [B, T, N], in raw reward units."""
    return _estimate(data, spec, critic, switches, switches.gae_lambda, switches.gae_horizon)


def estimates(
    data: Mapping[str, Array], spec: EnvironmentSpec, critic: ExpertRecord, switches: LossSwitches
) -> Estimates:
    """Return advantages beside what judges the critic that they are built on."""
    value = torch.from_numpy(data["steps/value"])
    error = _estimate(data, spec, critic, switches, 1.0, None)
    return Estimates(value, error, advantages(data, spec, critic, switches))


def _estimate(
    data: Mapping[str, Array],
    spec: EnvironmentSpec,
    critic: ExpertRecord,
    switches: LossSwitches,
    gae_lambda: float,
    horizon: int | None,
) -> Tensor:
    step = {name: torch.from_numpy(data[f"steps/{name}"]).transpose(0, 1) for name in _STEPS}
    bootstrap = switches.bootstrap_on_truncation
    return generalised_advantage(
        side_mean(step["reward"], torch.tensor(spec.side_of)),
        step["value"],
        torch.from_numpy(data["final/value"]),
        step["terminated"],
        step["truncated"],
        gamma=switches.gamma if switches.gamma is not None else critic.gamma or 0.99,
        gae_lambda=gae_lambda,
        bootstrap_on_truncation=bool(
            critic.bootstraps_truncation if bootstrap is None else bootstrap
        ),
        horizon=horizon,
        waits=waiting(step["alive"], step["terminated"] | step["truncated"]),
    ).transpose(0, 1)
