"""Values in raw reward units from a critic whose normaliser is lost.

Some libraries train critics on standardised rewards or returns and do not save the statistics. An
affine map is all that is lost, so it is fitted again: a trial of the expert's own sampled play
gives discounted returns, and least squares gives the scale and the offset that explain them best.
The trial has seeds of its own, which depend on the recording's seed alone.
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
_UNUSED = ("obs", "state", "available_actions", "logits", "q_values", "embedding", "actions")


def calibrated(
    expert: Expert,
    world: BatchedEnvironment,
    seed: int,
    observer: Observer = SILENT,
) -> Expert:
    """Return the expert with values in raw units.

    Values that claim to be in raw units already are left alone, but ``observer`` is told where a
    trial says that they are not: reward sums and means of a team differ between libraries. The
    caller computes with one thread of PyTorch, so that a resumed recording finds the same numbers.
    """
    units = expert.value_units
    if units is None:
        return expert
    seeds = episode_seeds(seed, 0, EPISODES, "calibration")
    played = collect_sampled(world, expert, seeds, _UNUSED)

    def fitted(known: tuple[float, float] | None) -> ValueCalibration:
        return fit(
            played,
            np.array(world.spec.side_of),
            gamma=units.gamma,
            bootstrap_on_truncation=units.bootstrap_on_truncation,
            known=known,
        )

    found = fitted(None)
    words = f"{found.scale:.4g} x output {found.offset:+.4g} explains {found.r2:.2f}"
    if not units.raw:
        said = f"values were calibrated on {EPISODES} trial episodes: {words} of the variance"
    else:
        given = fitted((1.0, 0.0)).r2
        said = (
            f"values are taken as raw, but explain {given:.2f} of the variance of the returns, "
            f"while {words}: state value_units and gamma in an expert.toml"
        )
        if found.r2 - given < _SUSPICIOUS:
            return expert
    observer.message(said)
    return expert if units.raw else expert.calibrated(found)


def fit(
    played: Trajectories,
    side_of: Array,
    *,
    gamma: float,
    bootstrap_on_truncation: bool,
    known: tuple[float, float] | None = None,
) -> ValueCalibration:
    """Fit ``return = scale * value + offset`` over the steps of alive agents.

    Where the critic gives a value to the time after a time limit, an episode cut off there has a
    return that ends in the same unknown map of its last value: ``G + D (scale v + offset)``, with
    the discount ``D`` of the remaining steps. Both unknowns stay linear, so that is no obstacle.
    The scale is not negative; a critic that errs in sign explains nothing.

    Parameters
    ----------
    played : Trajectories
        With ``value``, ``reward``, ``alive``, ``terminated``, and the final ``value``.
    side_of : int [N]
    gamma : float
    bootstrap_on_truncation : bool
    known : scale and offset, optional
        Measure these and fit nothing.
    """
    steps = played.steps
    returns, discount = _returns(played, side_of, gamma)
    terminated = (steps["terminated"] & played.valid).any(axis=0)
    open_end = np.atleast_1d(~terminated & bootstrap_on_truncation)[:, None]
    tail = discount[..., None] * open_end  # [T, B, 1]
    counts = played.valid[..., None] & steps["alive"]
    ones = np.ones_like(returns)
    v, last = steps["value"].astype(np.float64), played.final["value"]
    y, unit = returns[counts], ((1 - tail) * ones)[counts]
    scale, offset = known or _least_squares((v - tail * last)[counts], unit, y)
    target = y + (tail * (scale * last + offset))[counts]
    spread = float(((target - target.mean()) ** 2).sum())
    left = float(((target - scale * v[counts] - offset) ** 2).sum())
    return ValueCalibration(
        scale=scale,
        offset=offset,
        r2=max(0.0, 1 - left / spread) if spread > 0 else 0.0,
        episodes=len(played.length),
        steps=int(played.length.sum()),
    )


def _returns(played: Trajectories, side_of: Array, gamma: float) -> tuple[FloatArray, FloatArray]:
    """Return the discounted returns [T, B, N] and the discounts of what follows the end [T, B]."""
    same = (side_of[:, None] == side_of).astype(np.float64)
    reward = played.steps["reward"].astype(np.float64) @ (same / same.sum(0))
    reward = reward * played.valid[..., None]
    returns, discount = np.zeros_like(reward), np.zeros(reward.shape[:2])
    after, rest = np.zeros_like(reward[0]), np.ones(reward.shape[1])
    for t in reversed(range(len(reward))):
        running = played.valid[t]
        after = reward[t] + gamma * after
        rest = np.where(running, gamma * rest, rest)
        returns[t], discount[t] = after, rest
    return returns, discount


def _least_squares(x: FloatArray, unit: FloatArray, y: FloatArray) -> tuple[float, float]:
    solution, *_ = np.linalg.lstsq(np.stack([x, unit], axis=1), y, rcond=None)
    if solution[0] >= 0:
        return float(solution[0]), float(solution[1])
    return 0.0, float(unit @ y / max(float(unit @ unit), 1e-12))
