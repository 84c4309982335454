"""Conformance check for perturbations."""

from __future__ import annotations

import numpy as np

from kd_offline.evaluation.rollout import Rollout, rollout
from kd_offline.robustness.perturbations.base import (
    ColumnScale,
    Perturbation,
    PerturbedPolicy,
    Setting,
    check_strength,
)
from kd_offline.seeding import episode_seeds
from kd_offline.testing.environments import ConformanceError
from kd_offline.testing.targets import TargetsEnvironment, TargetsPolicy

_EPISODES = episode_seeds(0, 0, 60, "conformance")


def check_perturbation(kind: type[Perturbation]) -> None:
    """Raise :class:`ConformanceError` unless a perturbation keeps what the protocol promises.

    It is played in a small game by a policy without networks, so a perturbation that needs
    gradients cannot be checked.

    Notes
    -----
    The rules, by the name an error begins with. ``strengths``: they are ascending, above 0 and
    possible. ``description``: it and its unit are stated. ``effect``: the largest of its strengths
    changes play. ``batch``: an episode does not depend on those that are played beside it.
    ``agents``: agents that are not named are left alone.
    """
    name = kind.__name__
    _rule("description", bool(kind.description and kind.unit), f"{name} lacks one")
    ascending = list(kind.strengths) == sorted(set(kind.strengths))
    _rule("strengths", ascending and min(kind.strengths, default=0) > 0, str(kind.strengths))
    for strength in kind.strengths:
        check_strength(name, kind, strength)
    strongest = kind.strengths[-1]
    plain, perturbed = _play(None, 0.0), _play(kind, strongest)
    _rule("effect", not _same(plain, perturbed), f"{name} of {strongest:g} changes nothing")
    few = _play(kind, strongest, batch=7)
    _rule("batch", _same(perturbed, few), f"{name} of {strongest:g} in batches of 60 and 7 differs")
    alone = _play(kind, strongest, agents=(0,))
    others = np.array_equal(plain.returns[:, 1], alone.returns[:, 1])
    _rule("agents", others, f"{name} changes the play of an agent that it is not for")


def _play(
    kind: type[Perturbation] | None,
    strength: float,
    *,
    batch: int = len(_EPISODES),
    agents: tuple[int, ...] = (0, 1),
) -> Rollout:
    environment, policy = TargetsEnvironment(), TargetsPolicy(forgets_after=4)
    if kind is None:
        return rollout(environment, policy, _EPISODES, greedy=True, batch=batch)
    shape = environment.spec.n_agents, environment.spec.obs_width
    scale = ColumnScale(np.full(shape, 0.5, np.float32), np.full(shape, 0.4, np.float32))
    setting = Setting(environment.spec, agents, scale, strength)
    perturbed = PerturbedPolicy(policy, kind(setting))
    return rollout(environment, perturbed, _EPISODES, greedy=True, batch=batch)


def _same(one: Rollout, other: Rollout) -> bool:
    return np.array_equal(one.returns, other.returns) and np.array_equal(
        one.action_counts, other.action_counts
    )


def _rule(name: str, holds: bool, detail: str) -> None:
    if not holds:
        raise ConformanceError(name, detail)
