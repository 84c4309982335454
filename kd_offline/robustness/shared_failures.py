"""Failures and errors that the teams of several distillation seeds have in common.

K seeds, E episodes, N agents, T steps, A actions. What independence would give is the product of
the seeds' own rates. Seeds that fail together more often than that share a cause: a situation that
is hard for all, what their mask hides, or what they were all taught wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from kd_offline.datasets import ExpertBuffer
from kd_offline.evaluation.intervals import mean_interval, wilson
from kd_offline.exports import parity_check
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.evaluation import Estimate
from kd_offline.schemas.robustness import AgentErrors, SharedErrors, SharedFailures
from kd_offline.types import BoolArray, FloatArray, IntArray, TeamPolicy

_F64 = npt.NDArray[np.float64]


def shared_failures(
    failed: BoolArray, unperturbed_expert: BoolArray, expert: BoolArray | None
) -> SharedFailures | None:
    """Return how often all seeds fail in one episode; None of a single seed.

    Parameters
    ----------
    failed : bool [K, E]
    unperturbed_expert : bool [E]
        Where the expert fails although nothing is perturbed.
    expert : bool [E], optional
        Where it fails under the same perturbation.
    """
    if len(failed) < 2:
        return None
    rates, together = failed.mean(1), np.asarray(failed.all(0))
    return SharedFailures(
        rates=tuple(rates.tolist()),
        expert=None if expert is None else float(expert.mean()),
        together=Estimate(**wilson(float(together.mean()), len(together))._asdict()),
        independent=float(rates.prod()),
        without_expert=float((together & ~unperturbed_expert).mean()),
        correlation=mean_correlation(failed),
    )


def mean_correlation(events: BoolArray) -> float | None:
    """Return the mean correlation of pairs of rows of ``events``, bool [K, M].

    Pairs in which one row is constant have none; None where there is no other pair.
    """
    varied = events[(events.mean(1) > 0) & (events.mean(1) < 1)].astype(np.float64)
    if len(varied) < 2:
        return None
    pairs = np.corrcoef(varied)[np.triu_indices(len(varied), 1)]
    return float(pairs.mean())


@dataclass(frozen=True, slots=True)
class RecordedErrors:
    """Actions of K teams and of the recorded expert in whole recorded episodes."""

    recorded: parity_check.Recorded
    students: IntArray  # [K, E, T, N]
    wrong: BoolArray  # [K, E, T, N], where an agent decides and its action is not the expert's
    deciding: BoolArray  # [E, T, N]

    @property
    def together(self) -> _F64:
        """Values of episodes, float64 [E], whose mean is the share of decisions all get wrong.

        A decision counts the same in long and in short episodes, so the share is a quotient of two
        sums. The values are its linearisation, which have its standard error (delta method).
        """
        return self._shares(np.asarray(self.wrong.all(0)))

    @property
    def each(self) -> _F64:
        """The same of the decisions that each team gets wrong, float64 [K, E]."""
        return np.stack([self._shares(wrong) for wrong in self.wrong])

    def _shares(self, events: BoolArray) -> _F64:
        counts, number = self.deciding.sum((1, 2)), events.sum((1, 2))
        share = number.sum() / counts.sum()
        return np.asarray(share + (number - share * counts) / counts.mean())


def recorded_errors(
    buffer: ExpertBuffer, teams: Sequence[TeamPolicy], episodes: int, judge_by: str | None
) -> RecordedErrors | None:
    """Return the errors of teams on recorded episodes, at most ``episodes``, held-out ones first.

    None of a single team, and where the dataset does not say what its expert would do or holds no
    decision.
    """
    outputs = [n for n in ("steps/q_values", "steps/logits") if n in buffer.names]
    if len(teams) < 2 or not outputs:
        return None
    recorded = parity_check.recorded(buffer, episodes, judge_by)
    arrays, _ = buffer.padded(outputs[:1], recorded.episodes)
    expert = parity_check.greedy(arrays[outputs[0]], recorded)
    students = np.stack(
        [parity_check.greedy(parity_check.replay(team, recorded), recorded) for team in teams]
    )
    deciding = recorded.deciding()
    if not deciding.any():
        return None
    return RecordedErrors(recorded, students, (students != expert) & deciding, deciding)


def shared_errors(found: RecordedErrors, spec: EnvironmentSpec) -> SharedErrors:
    """Return how often teams are wrong alike."""
    wrong, deciding = found.wrong, found.deciding
    legal = found.recorded.arrays["available_actions"].sum(-1)
    alike, chance = _alike(found.students, wrong, legal)
    team, independent = _teams(wrong, deciding, spec.side_of)
    flat = wrong[:, deciding]
    return SharedErrors(
        part=found.recorded.part,
        episodes=len(found.recorded.episodes),
        decisions=int(deciding.sum()),
        rates=tuple(flat.mean(1).tolist()),
        together=mean_estimate(found.together),
        independent=float(flat.mean(1).prod()),
        correlation=mean_correlation(flat),
        alike=alike,
        alike_by_chance=chance,
        agents={
            name: _agent(wrong[..., i], deciding[..., i])
            for i, name in enumerate(spec.agents)
            if deciding[..., i].any()
        },
        team=team,
        team_independent=independent,
    )


def mean_estimate(values: _F64) -> Estimate:
    """Return the mean of values of episodes, float64 [E]; of a single one the interval is open."""
    if len(values) > 1:
        return Estimate(**mean_interval(values)._asdict())
    return Estimate(mean=float(values[0]), low=-1.0, high=1.0)


def _alike(
    students: IntArray, wrong: BoolArray, legal: IntArray
) -> tuple[float | None, float | None]:
    """Return how often two wrong seeds choose the same action, and how often they would by chance.

    A wrong action that is drawn uniformly is one of ``legal - 1``.
    """
    equal = by_chance = both_wrong = 0.0
    for one, other in combinations(range(len(students)), 2):
        both = wrong[one] & wrong[other]
        equal += float((students[one] == students[other])[both].sum())
        by_chance += float((1.0 / np.maximum(legal[both] - 1, 1)).sum())
        both_wrong += float(both.sum())
    if not both_wrong:
        return None, None
    return equal / both_wrong, by_chance / both_wrong


def _agent(wrong: BoolArray, deciding: BoolArray) -> AgentErrors:
    events = wrong[:, deciding]
    rates: FloatArray = events.mean(1)
    return AgentErrors(
        error=float(rates.mean()),
        together=float(events.all(0).mean()),
        independent=float(rates.prod()),
    )


def _teams(
    wrong: BoolArray, deciding: BoolArray, side_of: Sequence[int]
) -> tuple[float | None, float | None]:
    """Return how often all agents of a side are wrong at once, and the product of their rates.

    Only steps count in which all of them decide. None where no side of several agents has any.
    """
    shares, products, weights = [], [], []
    for side in sorted(set(side_of)):
        members = [i for i, own in enumerate(side_of) if own == side]
        steps = deciding[..., members].all(-1)
        if len(members) > 1 and steps.any():
            events = wrong[..., members][:, steps]  # [K, M, n]
            shares.append(float(events.all(-1).mean()))
            products.append(float(events.mean(1).prod(-1).mean()))
            weights.append(float(steps.sum()))
    if not weights:
        return None, None
    return float(np.average(shares, weights=weights)), float(np.average(products, weights=weights))
