"""A tiny deterministic game for tests: press the button that your observation shows.

Episodes differ in length, agents differ in width and number of actions, agents can leave, some
actions are illegal, and the task has wins. Everything follows from the episode's seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.seeding import uniforms
from kd_offline.types import (
    BoolArray,
    Float32Array,
    IntArray,
    Outcome,
    PolicyOutput,
    SeedArray,
    View,
)

_NOISE = 1


def targets_spec(*, limit: int = 6, sides: int = 1, wins: bool = True) -> EnvironmentSpec:
    """Return the description of the game: two agents of 3 and 4 actions."""
    agents, actions = ("left", "right"), (3, 4)
    return EnvironmentSpec(
        id="test/targets",
        version="1",
        kwargs={"limit": limit, "sides": sides, "wins": wins},
        agents=agents,
        obs_widths=tuple(a + _NOISE for a in actions),
        action_counts=actions,
        action_names=tuple(tuple(f"button_{k}" for k in range(a)) for a in actions),
        episode_limit=limit,
        reward="per_agent",
        sides={"team": agents} if sides == 1 else {a: (a,) for a in agents},
        state_width=sum(actions) + 2 * _NOISE,
        state_is_obs=True,
        blocks={
            agent: {"target": ((0, a),), "noise": ((a, a + _NOISE),)}
            for agent, a in zip(agents, actions, strict=True)
        },
    )


class TargetsEnvironment:
    """The game, batched. Reward 1 for the shown button, -0.5 for another one.

    An episode lasts 2 to ``limit`` steps; it is won when every press was right. In every fourth
    episode the second agent leaves after its first step. The highest action that is not the target
    is illegal at odd steps.
    """

    def __init__(self, *, limit: int = 6, sides: int = 1, wins: bool = True) -> None:
        self.spec = targets_spec(limit=limit, sides=sides, wins=wins)
        self._wins = wins

    def reset(self, seeds: SeedArray) -> View:
        """Start an episode for every seed."""
        self._seeds = np.array(seeds, np.uint64)
        start = uniforms(self._seeds, 0, (2,), "length")
        self._length = 2 + (start[:, 0] * (self.spec.episode_limit - 1)).astype(np.int64)
        self._leaves = start[:, 1] < 0.25
        self._step = np.zeros(len(seeds), np.int64)
        self._flawless = np.ones(len(seeds), bool)
        return self._view()

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the given slots."""
        kept = (self._seeds, self._length, self._leaves, self._step, self._flawless)
        self.reset(np.where(where, seeds, kept[0]))
        for new, old in zip(
            (self._seeds, self._length, self._leaves, self._step, self._flawless), kept, strict=True
        ):
            new[~where] = old[~where]
        return self._view()

    def step(self, actions: IntArray) -> Outcome:
        """Press the buttons ``actions``: int [B, N]."""
        running, alive = self._step < self._length, self._alive()
        right = actions == self._targets()
        reward = np.where(right, 1.0, -0.5) * (alive & running[:, None])
        self._flawless &= (right | ~alive).all(axis=1) | ~running
        self._step = self._step + running
        ended = self._step >= self._length
        won = (self._flawless & ended).astype(np.int8) if self._wins else np.full(len(ended), -1)
        return Outcome(
            view=self._view(),
            reward=reward.astype(np.float32),
            terminated=ended,
            truncated=np.zeros_like(ended),
            won=won.astype(np.int8),
        )

    def close(self) -> None:
        """Do nothing."""

    def _alive(self) -> BoolArray:
        alive = np.ones((len(self._step), 2), bool)
        alive[:, 1] = ~(self._leaves & (self._step > 0))
        return alive

    def _draw(self) -> Float32Array:
        """Return uniforms [B, 4] of each slot at its own step."""
        out = np.empty((len(self._step), 4), np.float32)
        for step in np.unique(self._step):
            at_step = self._step == step
            out[at_step] = uniforms(self._seeds[at_step], int(step), (4,), "targets")
        return out

    def _targets(self) -> IntArray:
        counts = np.array(self.spec.action_counts)
        chosen: IntArray = (self._draw()[:, :2] * counts * (1 - 1e-6)).astype(np.int64)
        return chosen

    def _view(self) -> View:
        n, spec = len(self._step), self.spec
        targets, noise, alive = self._targets(), self._draw()[:, 2:], self._alive()
        obs = np.zeros((n, 2, spec.obs_width), np.float32)
        legal = np.zeros((n, 2, spec.action_count), bool)
        for i, count in enumerate(spec.action_counts):
            obs[np.arange(n), i, targets[:, i]] = 1.0
            obs[:, i, count] = noise[:, i]
            legal[:, i, :count] = True
            highest = np.where(targets[:, i] == count - 1, count - 2, count - 1)
            is_odd = self._step % 2 == 1
            legal[is_odd, i, highest[is_odd]] = False
        obs *= alive[..., None]
        legal &= alive[..., None]
        state = np.concatenate([obs[:, i, :w] for i, w in enumerate(spec.obs_widths)], axis=1)
        return View(obs, state, legal, alive)


@dataclass(frozen=True, slots=True)
class TargetsPolicy:
    """Presses the shown button with a preference of ``strength`` logits; negative avoids it.

    Its memory counts the steps of each episode. From step ``forgets_after`` on it ignores the
    observation, so that a test can detect a rollout that mishandles memory.
    """

    strength: float = 8.0
    forgets_after: int | None = None

    def start(self, seeds: SeedArray) -> IntArray:
        """Return the step counters: int64 [B]."""
        return np.zeros(len(seeds), np.int64)

    def act(self, view: View, memory: IntArray) -> tuple[PolicyOutput, IntArray]:
        """Return logits from the shown target."""
        actions = view.available_actions.shape[-1]
        logits = np.zeros((*view.obs.shape[:2], actions), np.float32)
        width = min(actions, view.obs.shape[-1])
        logits[..., :width] = (view.obs[..., :width] == 1.0) * self.strength
        if self.forgets_after is not None:
            logits[memory >= self.forgets_after] = 0.0
        return PolicyOutput(logits), memory + 1
