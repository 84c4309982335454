"""Calibrate a critic's values to raw reward units where its normaliser is not saved.

Some libraries train critics on standardised rewards or returns and do not save the statistics. Raw
values are then an affine map of the critic's outputs. The map is fitted here: trial episodes of the
expert's own sampled play give discounted returns, and least squares gives the scale and the offset
that explain them best. The seeds of the trial depend on the recording's seed alone.
"""

from __future__ import annotations

import numpy as np

from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.experts.protocol import Expert
from kd_offline.rollout.collect import Trajectories, collect_sampled
from kd_offline.schemas.foreign import ValueCalibration
from kd_offline.seeding import episode_seeds
from kd_offline.tracking.base import SILENT, Observer
from kd_offline.types import Array, FloatArray

EPISODES = 100
_SUSPICIOUS = 0.2  # share of the returns' variance
_UNUSED = (
    "obs",
    "obs_full",
    "state",
    "available_actions",
    "logits",
    "q_values",
    "embedding",
    "actions",
)


def calibrated(
    expert: Expert,
    environment: BatchedEnvironment,
    seed: int,
    observer: Observer = SILENT,
) -> Expert:
    """Return the expert with values in raw reward units.

    An expert whose values are declared raw is returned unchanged; if a trial contradicts the
    declaration, ``observer`` receives a message, because libraries differ in sums and means of team
    rewards. The caller computes with one PyTorch thread, so that a resumed recording obtains the
    same calibration.
    """
    units = expert.value_units
    if units is None:
        return expert
    seeds = episode_seeds(seed, 0, EPISODES, "calibration")
    trajectories = collect_sampled(environment, expert, seeds, _UNUSED)

    def fit_trial(known: tuple[float, float] | None) -> ValueCalibration:
        return fit(
            trajectories,
            np.array(environment.spec.side_of),
            gamma=units.gamma,
            bootstrap_on_truncation=units.bootstrap_on_truncation,
            known=known,
        )

    calibration = fit_trial(None)
    explanation = (
        f"{calibration.scale:.4g} x output {calibration.offset:+.4g} explains {calibration.r2:.2f}"
    )
    if not units.raw:
        message = (
            f"values were calibrated on {EPISODES} trial episodes: {explanation} of the variance"
        )
    else:
        raw_r2 = fit_trial((1.0, 0.0)).r2
        message = (
            f"values are taken as raw, but explain {raw_r2:.2f} of the variance of the returns, "
            f"while {explanation}: state value_units and gamma in an expert.toml"
        )
        if calibration.r2 - raw_r2 < _SUSPICIOUS:
            return expert
    observer.message(message)
    return expert if units.raw else expert.calibrated(calibration)


def fit(
    trajectories: Trajectories,
    side_of: Array,
    *,
    gamma: float,
    bootstrap_on_truncation: bool,
    known: tuple[float, float] | None = None,
) -> ValueCalibration:
    """Fit ``return = scale * value + offset`` over the steps of alive agents.

    Where the critic bootstraps after a time limit, the return of an episode cut off there ends with
    the calibrated final value ``v``: ``G + D (scale v + offset)``, with the discount ``D`` of the
    remaining steps. The fit stays linear in both unknowns. The scale is at least 0: a critic of the
    wrong sign explains nothing.

    Parameters
    ----------
    trajectories : Trajectories
        With ``value``, ``reward``, ``alive``, ``terminated``, and the final ``value``.
    side_of : int [N]
    gamma : float
    bootstrap_on_truncation : bool
    known : scale and offset, optional
        Evaluate these instead of fitting.
    """
    steps = trajectories.steps
    returns, discount = _returns(trajectories, side_of, gamma)
    terminated = (steps["terminated"] & trajectories.valid).any(axis=0)
    bootstrapped = np.atleast_1d(~terminated & bootstrap_on_truncation)[:, None]
    open_discount = discount[..., None] * bootstrapped  # [T, B, 1]
    counts = trajectories.valid[..., None] & steps["alive"]
    unit_values = np.ones_like(returns)
    values, final_values = steps["value"].astype(np.float64), trajectories.final["value"]
    target_returns, offset_factor = returns[counts], ((1 - open_discount) * unit_values)[counts]
    scale, offset = known or _least_squares(
        (values - open_discount * final_values)[counts], offset_factor, target_returns
    )
    target = target_returns + (open_discount * (scale * final_values + offset))[counts]
    total_variation = float(((target - target.mean()) ** 2).sum())
    residual = float(((target - scale * values[counts] - offset) ** 2).sum())
    return ValueCalibration(
        scale=scale,
        offset=offset,
        r2=max(0.0, 1 - residual / total_variation) if total_variation > 0 else 0.0,
        episodes=len(trajectories.length),
        steps=int(trajectories.length.sum()),
    )


def _returns(
    trajectories: Trajectories, side_of: Array, gamma: float
) -> tuple[FloatArray, FloatArray]:
    """Return discounted returns [T, B, N], and the discount [T, B] of what follows the episode."""
    same_side = (side_of[:, None] == side_of).astype(np.float64)
    reward = trajectories.steps["reward"].astype(np.float64) @ (same_side / same_side.sum(0))
    reward = reward * trajectories.valid[..., None]
    returns, discount = np.zeros_like(reward), np.zeros(reward.shape[:2])
    following_return, following_discount = np.zeros_like(reward[0]), np.ones(reward.shape[1])
    for t in reversed(range(len(reward))):
        running = trajectories.valid[t]
        following_return = reward[t] + gamma * following_return
        following_discount = np.where(running, gamma * following_discount, following_discount)
        returns[t], discount[t] = following_return, following_discount
    return returns, discount


def _least_squares(x: FloatArray, unit: FloatArray, y: FloatArray) -> tuple[float, float]:
    solution, *_ = np.linalg.lstsq(np.stack([x, unit], axis=1), y, rcond=None)
    if solution[0] >= 0:
        return float(solution[0]), float(solution[1])
    return 0.0, float(unit @ y / max(float(unit @ unit), 1e-12))
