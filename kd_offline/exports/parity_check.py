"""The parity check: an export is written only if it repeats its student on recorded episodes.

Whole recorded episodes are replayed, held-out ones where the dataset has any, every policy with its
own memory fed back and reset at each start, and with the recorded actions as the executed ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from kd_offline import distributions
from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.reading.held_out import held_out
from kd_offline.distributions.base import Played
from kd_offline.errors import CheckpointError, Remedy
from kd_offline.exports.network import Step
from kd_offline.exports.team import ExportedTeam, executed
from kd_offline.schemas.export import AgentContract, Comparison
from kd_offline.types import (
    Array,
    BoolArray,
    Float32Array,
    IntArray,
    SeedArray,
    TeamPolicy,
    View,
)

TOLERANCE = 1e-4
"""Largest error of a logit, relative to it where it is above 1."""

_ARRAYS = ("obs", "available_actions", "alive", "actions")


class ParityError(CheckpointError):
    """An export does not repeat its student."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Whole episodes, padded: arrays are [E, T, ...]."""

    dataset: str
    part: str
    episodes: IntArray  # [E], of the dataset
    seeds: SeedArray  # [E]
    arrays: dict[str, Array]
    valid: BoolArray  # [E, T]
    actions: type[Played]

    @property
    def steps(self) -> int:
        """Steps of all episodes."""
        return int(self.valid.sum())

    def views(self) -> Iterator[View]:
        """Yield the team's view of every step of all episodes."""
        arrays = self.arrays
        for t in range(self.valid.shape[1]):
            last = arrays["actions"][:, t - 1].astype(np.int64) if t else None
            yield View(
                obs=arrays["obs"][:, t],
                state=np.zeros((len(self.seeds), 0), np.float32),
                available_actions=arrays["available_actions"][:, t],
                alive=arrays["alive"][:, t],
                last_actions=last,
            )

    def acting(self) -> BoolArray:
        """Return which agents act, also if only one action is legal: bool [E, T, N]."""
        there: BoolArray = self.arrays["alive"] & self.valid[..., None]
        return there & self.arrays["available_actions"].any(axis=-1)

    def deciding(self) -> BoolArray:
        """Return which agents have two or more legal actions: bool [E, T, N]."""
        return self.acting() & self.actions.has_choice(self.arrays["available_actions"])

    def policy(self, logits: Float32Array) -> Played:
        """Return the distributions of logits [E, T, N, A] over the legal actions."""
        return self.actions(logits, self.arrays["available_actions"])

    @property
    def longest(self) -> int:
        """Steps of the longest episode, T."""
        return int(self.valid.shape[1])

    def first(self, steps: int) -> Recorded:
        """Return the first episodes that have ``steps`` steps together, or all."""
        reached = np.cumsum(self.valid.sum(axis=1)) >= steps
        count = int(np.argmax(reached)) + 1 if reached.any() else len(reached)
        longest = int(self.valid[:count].sum(axis=1).max())
        arrays = {name: values[:count, :longest] for name, values in self.arrays.items()}
        valid = self.valid[:count, :longest]
        chosen = self.episodes[:count]
        seeds = self.seeds[:count]
        return Recorded(self.dataset, self.part, chosen, seeds, arrays, valid, self.actions)


def recorded(buffer: ExpertBuffer, episodes: int, judge_by: str | None = None) -> Recorded:
    """Read the first held-out episodes, or training ones where none are held out.

    ``judge_by`` names the part that is held out, as a recipe does.
    """
    unseen = held_out(buffer, judge_by)
    part = "train" if unseen is None else unseen.part
    chosen = (buffer.split(part) if unseen is None else unseen.episodes)[:episodes]
    arrays, valid = buffer.padded([f"steps/{name}" for name in _ARRAYS], chosen)
    # What agents that are not alive did means nothing, and may be no action at all.
    arrays["steps/actions"] = np.where(arrays["steps/alive"], arrays["steps/actions"], np.int16(0))
    return Recorded(
        dataset=buffer.id,
        part=part,
        episodes=chosen,
        seeds=buffer.episodes("seed")[chosen],
        arrays={name.removeprefix("steps/"): values for name, values in arrays.items()},
        valid=valid,
        actions=distributions.played(buffer.spec),
    )


def replay(policy: TeamPolicy, episodes: Recorded) -> Float32Array:
    """Return a policy's logits on every recorded step: [E, T, N, A].

    Raises
    ------
    ParityError
        An exported step returns another action than the legal one of its own largest logit.
    """
    memory, logits = policy.start(episodes.seeds), []
    for view in episodes.views():
        if isinstance(policy, ExportedTeam):
            actions, output, memory = policy.decide(view, memory)
            stated = episodes.actions(output.logits, view.available_actions)
            _require_greedy(actions, stated, view.alive)
        else:
            output, memory = policy.act(view, memory)
        logits.append(output.logits)
    return np.stack(logits, axis=1)


def _require_greedy(actions: IntArray, policy: Played, alive: BoolArray) -> None:
    logits = policy.parameters
    finite = np.isfinite(logits).all(axis=-1)  # what is not is refused by its logits
    wrong = (actions != policy.mode()) & alive & finite
    if wrong.any():
        msg = (
            f"an exported step is refused: it returned the action {actions[wrong][0]} where its "
            f"own logits are {logits[wrong][0].tolist()}; nothing was written, so export again"
        )
        raise ParityError(msg)


def greedy(logits: Float32Array, episodes: Recorded) -> IntArray:
    """Return the greedy legal actions of logits: [E, T, N]."""
    return episodes.policy(logits).mode()


def compare(ours: Float32Array, theirs: Float32Array, episodes: Recorded) -> Comparison:
    """Compare two replays; ``theirs`` is the reference.

    Logits are compared wherever an agent acts, actions wherever it has a choice.
    """
    acting, deciding = episodes.acting(), episodes.deciding()
    error = (np.abs(ours - theirs) / np.maximum(1, np.abs(theirs)))[acting]
    # NaN would pass every comparison with a tolerance.
    error = np.where(np.isfinite(error), error, np.finfo(np.float32).max).astype(np.float64)
    policy, reference = episodes.policy(ours), episodes.policy(theirs)
    same = policy.agrees(reference)[deciding]
    close = reference.near_mode(policy.mode(), TOLERANCE)
    return Comparison(
        decisions=len(same),
        agreement=float(same.mean()) if same.size else None,
        ties=int((close[deciding] & ~same).sum()),
        logit_error=float(error.max(initial=0.0)),
        mean_logit_error=float(error.mean()) if error.size else 0.0,
    )


_UNUSABLE = tuple(np.float32(x) for x in (np.nan, np.inf, -np.inf, np.finfo(np.float32).max))


def require_refusals(engine: str, agents: Sequence[AgentContract], steps: Sequence[Step]) -> None:
    """Raise an error for an engine that does not refuse unusable numbers, or has another memory.

    Every agent is given each such number as its first and as its last feature and as its first
    number of the memory, with all actions legal, with the last one alone and with none; what it
    has to return is what :data:`~kd_offline.schemas.export.REFUSAL` says, to the bit.

    Raises
    ------
    ParityError
        A step returned something else.
    """
    for agent, step in zip(agents, steps, strict=True):
        obs, legal, memory = _ordinary(agent)
        action, logits, _ = step(obs, legal, memory)
        # Rows of one batch may differ in their last bits.
        if action[2] != 0 or not np.allclose(logits[2], logits[0], TOLERANCE, TOLERANCE):
            _refuse(engine, agent, "does not return action 0 where none is legal")
        for given, kept in _poisoned(agent, obs, memory):
            if not _refused(agent, step, given, legal, kept):
                _refuse(engine, agent, "acts upon numbers that are NaN, infinite or too large")


def _ordinary(agent: AgentContract) -> tuple[Float32Array, BoolArray, Float32Array]:
    """Return three rows: all actions are legal, the last one, and none."""
    count = len(agent.actions)
    legal = np.zeros((3, count), bool)
    legal[0], legal[1, -1] = True, True
    memory = np.full((3, agent.memory_width), np.float32(0.5))
    return np.ones((3, agent.inputs), np.float32), legal, memory


def _poisoned(
    agent: AgentContract, obs: Float32Array, memory: Float32Array
) -> Iterator[tuple[Float32Array, Float32Array]]:
    """Yield observations and memories of which one number cannot be computed with."""
    features = len(agent.seen)
    for value in _UNUSABLE:
        for column in {0, features - 1} if features else ():
            given = obs.copy()
            given[:, column] = value
            yield given, memory
        kept = memory.copy()
        kept[:, 0] = value
        yield obs, kept


def _refused(
    agent: AgentContract, step: Step, obs: Float32Array, legal: BoolArray, memory: Float32Array
) -> bool:
    """Tell whether a step returned what a refused one has to, to the bit."""
    first = legal.argmax(axis=1)
    kept = executed(agent, memory, first)
    action, logits, after = step(obs, legal, memory.copy())
    nan = np.full_like(logits, np.nan)
    return np.array_equal(action, first) and all(
        np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
        for ours, theirs in ((logits, nan), (after, kept))
    )


def _refuse(engine: str, agent: AgentContract, what: str) -> NoReturn:
    msg = (
        f"the {engine} export is refused: {agent.agent} {what}; nothing was written, so export "
        "again from an unaltered run"
    )
    raise ParityError(msg)


def require_parity(engine: str, comparison: Comparison, tolerance: float = TOLERANCE) -> None:
    """Raise an error for an engine that does not give the logits and actions of its reference.

    Raises
    ------
    ParityError
        A logit is off by more than the tolerance, or an action differs that is not one of two
        whose logits are equal within rounding.
    """
    agreement = 1.0 if comparison.agreement is None else comparison.agreement
    wrong = round((1 - agreement) * comparison.decisions) - comparison.ties
    if comparison.logit_error <= tolerance and wrong == 0:
        return
    msg = (
        f"the {engine} export is refused: over {comparison.decisions:,} recorded decisions its "
        f"logits are off by up to {comparison.logit_error:.3g} (allowed {tolerance:.3g}) and "
        f"{wrong:,} actions differ (allowed 0); nothing was written, so export again from an "
        "unaltered run"
    )
    raise ParityError(msg)


def require_agreement(comparison: Comparison, least: float, precision: str) -> None:
    """Raise an error if a precision changes too many actions.

    Raises
    ------
    ParityError
        Fewer actions agree.
    """
    if comparison.agreement is None or comparison.agreement >= least:
        return
    msg = (
        f"the {precision} students are refused: {comparison.agreement:.4f} of their "
        f"{comparison.decisions:,} recorded decisions are those of the trained ones (allowed "
        f"{least:.4f} or more); nothing was written"
    )
    raise ParityError(msg, Remedy("lower", least_agreement=...), Remedy("export as fp32"))
