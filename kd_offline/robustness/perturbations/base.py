"""The protocol of a perturbation, and the policy that plays under one.

A perturbation changes what some agents observe, what they do, or both. It is created once for a
side of a task and a strength; with strength 0 it is not asked. Everything that it draws follows
from an episode's seed, the step and the agent (:func:`kd_offline.seeding.uniforms`), so it does not
depend on which episodes are played together.

Its arrays have one row for each episode of the batch: B episodes, N agents, O features, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from kd_offline import distributions
from kd_offline.errors import UsageError
from kd_offline.rollout import play
from kd_offline.rollout.active_episodes import Selective
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import (
    Array,
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
    PolicyOutput,
    SeedArray,
    TeamPolicy,
    View,
    needs_full,
)

FARTHEST = 100.0
"""Largest strength of what is measured in deviations; more would leave the range of numbers."""
NO_OPS = ("no_op", "noop", "no-op", "no_action", "stop", "stay", "wait", "idle")
"""Names of actions that do nothing, the first that is legal before the others."""


class ColumnScale(NamedTuple):
    """Mean and standard deviation of every feature in the dataset, float32 [N, O] each.

    The deviation is 0 where a feature did not vary, and of padding.
    """

    mean: Float32Array
    deviation: Float32Array


@dataclass(frozen=True, slots=True)
class Setting:
    """The setting of a perturbation: task, perturbed agents and strength."""

    spec: EnvironmentSpec
    agents: tuple[int, ...]
    scale: ColumnScale
    strength: float

    @property
    def blocks(self) -> list[tuple[int, BoolArray]]:
        """Agents with the features of one of their blocks, bool [O].

        Features that belong to no block are one block more.
        """
        found = []
        for i in self.agents:
            rest = np.arange(self.spec.obs_width) < self.spec.obs_widths[i]
            for ranges in self.spec.blocks[self.spec.agents[i]].values():
                features = np.zeros(self.spec.obs_width, bool)
                for start, stop in ranges:
                    features[start:stop] = True
                rest &= ~features
                found.append((i, features))
            if rest.any():
                found.append((i, rest))
        return found


@dataclass(slots=True)
class Moment:
    """One step of a batch of episodes, as a perturbation sees it.

    ``kept`` holds what the perturbation itself keeps from step to step: arrays [B, ...], which it
    replaces. ``policy`` and ``memory`` are those of the policy that it perturbs, before its step.
    """

    seeds: SeedArray
    step: int
    kept: dict[str, Array]
    policy: TeamPolicy
    memory: Any


class Perturbation:
    """Base class of perturbations; a subclass overrides the methods that it needs."""

    description: ClassVar[str] = ""
    """One line that describes the perturbation."""

    unit: ClassVar[str] = ""
    """What its strength means, in words."""

    strengths: ClassVar[tuple[float, ...]] = (1.0,)
    """Strengths that are played where none is given, ascending."""

    largest: ClassVar[float] = float("inf")
    """The largest strength that has a meaning."""

    whole: ClassVar[bool] = False
    """Whether strengths are whole numbers."""

    of_observations: ClassVar[bool] = False
    """Whether it changes observations, and has no effect on a policy that acts by other things."""

    needs_gradients: ClassVar[bool] = False
    """Whether it needs the gradients of a policy, see
    :class:`~kd_offline.robustness.perturbations.gradients.Differentiable`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def start(self, seeds: SeedArray) -> dict[str, Array]:
        """Return the initial state that is kept between steps: arrays [B, ...] by name."""
        return {}

    def observations(self, view: View, moment: Moment) -> FloatArray:
        """Return the observations, float [B, N, O]; only those of perturbed agents count."""
        return view.obs

    def actions(
        self, chosen: IntArray, output: PolicyOutput, view: View, moment: Moment
    ) -> IntArray:
        """Return the agents' actions, int64 [B, N]; only those of perturbed agents count.

        ``chosen`` are the actions of the policy, greedy or drawn, and ``output`` is what they were
        chosen by, both from the changed observations; ``view`` is unchanged. An action that is not
        legal becomes :func:`idle`.
        """
        return chosen


def check_strength(name: str, kind: type[Perturbation], strength: float) -> None:
    """Raise a ``UsageError`` if a perturbation cannot have that strength."""
    broken = kind.whole and strength % 1 != 0
    if not 0 <= strength <= kind.largest or not np.isfinite(strength) or broken:
        number = "a whole number" if kind.whole else "a number"
        most = "of 0 or more" if kind.largest == float("inf") else f"from 0 to {kind.largest:g}"
        msg = (
            f"the perturbation {name!r} cannot have the strength {strength:g}: give {number} "
            f"{most}, which is {kind.unit}"
        )
        raise UsageError(msg)


def idle(spec: EnvironmentSpec, available: BoolArray) -> IntArray:
    """Return each agent's legal action that does nothing, int64 [B, N].

    It is the first legal one of :data:`NO_OPS` by name, and the lowest legal action where there is
    none; 0 where no action is legal.
    """
    # Lower is better: the place among the names, and behind them the number of the action.
    last = (len(NO_OPS) + 1) * spec.action_count
    rank = np.full((spec.n_agents, spec.action_count), last, np.int64)
    for i, names in enumerate(spec.action_names):
        for action, name in enumerate(names):
            known = NO_OPS.index(name.lower()) if name.lower() in NO_OPS else len(NO_OPS)
            rank[i, action] = known * spec.action_count + action
    return np.asarray(np.where(available, rank, last).argmin(-1), np.int64)


def chosen_agents(setting: Setting, draws: FloatArray) -> BoolArray:
    """Return which agents of each episode are perturbed, bool [B, N]: as many as the strength says.

    ``draws``: uniform numbers [B, N], of which the smallest of the setting's agents are chosen.
    """
    ordered = np.full(draws.shape, np.inf)
    agents = list(setting.agents)
    ordered[:, agents] = draws[:, agents]
    rank = ordered.argsort(-1, kind="stable").argsort(-1, kind="stable")
    return np.asarray((rank < round(setting.strength)) & np.isfinite(ordered), bool)


class PerturbedMemory(NamedTuple):
    """Memory of a perturbed policy."""

    policy: Any
    seeds: SeedArray
    step: int
    kept: dict[str, Array]


@dataclass(frozen=True, slots=True)
class PerturbedPolicy:
    """A team policy whose observations and actions pass through a perturbation.

    Agents that the setting does not name observe and act as ever. The rollout loop shows the policy
    its executed actions as its last ones. ``greedy``: how that loop chooses actions; where it draws
    them, the perturbation gets the very actions that it would draw.
    """

    policy: TeamPolicy
    perturbation: Perturbation
    greedy: bool = True
    _perturbed: BoolArray = field(init=False)

    def __post_init__(self) -> None:
        setting = self.perturbation.setting
        perturbed = np.isin(np.arange(setting.spec.n_agents), setting.agents)
        object.__setattr__(self, "_perturbed", perturbed)

    @property
    def needs_full(self) -> bool:
        """Whether the policy acts by full observations."""
        return needs_full(self.policy)

    def start(self, seeds: SeedArray) -> PerturbedMemory:
        """Return the memories of the policy and of the perturbation."""
        kept = self.perturbation.start(seeds)
        return PerturbedMemory(self.policy.start(seeds), seeds, 0, kept)

    def keep(self, memory: PerturbedMemory, episodes: IntArray) -> PerturbedMemory | None:
        """Return the memory of some episodes; None where that of the policy cannot be selected."""
        if not isinstance(self.policy, Selective):
            return None
        selected = self.policy.keep(memory.policy, episodes)
        if selected is None:
            return None
        kept = {name: values[episodes] for name, values in memory.kept.items()}
        return PerturbedMemory(selected, memory.seeds[episodes], memory.step, kept)

    def act(self, view: View, memory: PerturbedMemory) -> tuple[PolicyOutput, PerturbedMemory]:
        """Return the logits of the perturbed policy, with all probability on changed actions."""
        if not self.perturbation.setting.strength:  # nothing is perturbed, whatever the kind
            output, after = self.policy.act(view, memory.policy)
            return output, memory._replace(policy=after)
        moment = Moment(memory.seeds, memory.step, dict(memory.kept), self.policy, memory.policy)
        seen = self._seen(view, moment)
        output, after = self.policy.act(seen, memory.policy)
        output = self._acted(output, view, moment)
        return output, PerturbedMemory(after, memory.seeds, memory.step + 1, moment.kept)

    def _seen(self, view: View, moment: Moment) -> View:
        observed = self.perturbation.observations(view, moment)
        if observed is view.obs:
            return view
        with np.errstate(over="ignore"):
            obs = np.where(self._perturbed[:, None], observed, view.obs).astype(np.float32)
        if not np.isfinite(obs).all():
            setting = self.perturbation.setting
            msg = (
                f"observations are no finite numbers any more at the strength {setting.strength:g} "
                f"of {type(self.perturbation).__name__}: give a smaller one"
            )
            raise UsageError(msg)
        return replace(view, obs=obs)

    def _acted(self, output: PolicyOutput, view: View, moment: Moment) -> PolicyOutput:
        spec, legal = self.perturbation.setting.spec, view.available_actions
        kind = distributions.played(spec)
        choose = play.greedy if self.greedy else play.drawn(moment.seeds)
        choice = choose(moment.step, view, kind(output.logits, legal))
        chosen = np.asarray(choice.actions, np.int64)
        taken = self.perturbation.actions(chosen, output, view, moment)
        if taken is chosen:
            return output
        taken = legal_actions(spec, taken, legal)
        changed = self._perturbed & (taken != chosen)
        logits = np.where(changed[..., None], kind.certain(taken, legal), output.logits)
        return PolicyOutput(logits.astype(np.float32))


def legal_actions(spec: EnvironmentSpec, actions: IntArray, available: BoolArray) -> IntArray:
    """Return ``actions``, int64 [B, N], with :func:`idle` in the place of what is not legal."""
    is_action = (actions >= 0) & (actions < spec.action_count)
    numbers = np.where(is_action, actions, 0)
    legal = is_action & np.take_along_axis(available, numbers[..., None], -1)[..., 0]
    return np.where(legal, numbers, idle(spec, available))


def strengths_of(entry: str, kind: type[Perturbation]) -> Iterator[tuple[str, float]]:
    """Yield name and strengths that an entry ``NAME`` or ``NAME:STRENGTH`` asks for.

    Raises
    ------
    UsageError
        The strength is no number, or the perturbation cannot have it.
    """
    name, colon, given = entry.partition(":")
    if not colon:
        yield from ((name, strength) for strength in kind.strengths)
        return
    try:
        strength = float(given)
    except ValueError:
        msg = f"the strength {given!r} of the perturbation {name!r} is no number: write {name}:0.5"
        raise UsageError(msg) from None
    check_strength(name, kind, strength)
    yield name, strength
