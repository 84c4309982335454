"""Scores of perturbed play: changes, what is kept, failures together, tolerated strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from kd_offline.evaluation.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    quotient_interval,
    rate_interval,
)
from kd_offline.evaluation.scores import estimate
from kd_offline.robustness.perturbations.base import Perturbation
from kd_offline.robustness.shared_failures import mean_estimate, shared_failures
from kd_offline.schemas.evaluation import Estimate
from kd_offline.schemas.robustness import (
    FailureRule,
    PerturbedPlay,
    PerturbedReturn,
    PlayComparison,
    RobustnessReport,
    SharedFailures,
    Tolerance,
    Who,
)
from kd_offline.types import BoolArray

NONE = "none"
"""Name of unperturbed play."""
Player = Literal["expert", "students", "others", "random"]
"""Who plays; ``others`` are the students of a run that is compared with."""


@dataclass(frozen=True)
class Played:
    """Returns of K teams in E episodes, float64 [K, E], and wins, 1 or 0.

    An episode that was neither won nor lost counts as not won. ``won`` is None where no episode was
    either: the task has no wins, or its sides play against each other.
    """

    returns: npt.NDArray[np.float64]
    won: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class Scores:
    """Scores of unperturbed and random play, with which perturbed play is compared."""

    unperturbed: Mapping[Player, Played]
    rule: FailureRule

    def row(
        self,
        name: str,
        kind: type[Perturbation],
        strength: float,
        played: Mapping[Player, Played],
        declined: Mapping[Player, str],
    ) -> PerturbedPlay:
        """Return the scores under one perturbation."""
        beyond = None
        if {"students", "expert"} <= played.keys() and name != NONE:
            changes = [
                played[w].returns - self.unperturbed[w].returns for w in ("students", "expert")
            ]
            beyond = estimate(difference_interval(*changes))
        students, expert = played.get("students"), played.get("expert")
        return PerturbedPlay(
            perturbation=name,
            strength=strength,
            description=kind.description or "no perturbation",
            unit=kind.unit,
            expert=None if expert is None else self._returns("expert", expert),
            students=None if students is None else self._returns("students", students),
            beyond_expert=beyond,
            failures=self._failures(students, expert),
            comparison=self._comparison(students, played.get("others"), expert),
            declined={w: why for w, why in declined.items() if w in ("expert", "students")},
        )

    def _failures(self, teams: Played | None, expert: Played | None) -> SharedFailures | None:
        if teams is None:
            return None
        return shared_failures(
            self.failed(teams),
            self.failed(self.unperturbed["expert"])[0],
            None if expert is None else self.failed(expert)[0],
        )

    def _comparison(
        self, own: Played | None, others: Played | None, expert: Played | None
    ) -> PlayComparison | None:
        """Return the students of two runs beside each other, both with several seeds."""
        failures = self._failures(others, expert)
        if own is None or others is None or failures is None:
            return None
        failed = [self.failed(teams).astype(np.float64) for teams in (own, others)]
        together = [np.asarray(each.min(0)) for each in failed]
        return PlayComparison(
            returns=interval_estimate(mean_interval(others.returns)),
            failures=failures,
            returns_change=interval_estimate(difference_interval(own.returns, others.returns)),
            failed_change=interval_estimate(difference_interval(*failed)),
            together_change=mean_estimate(together[0] - together[1]),
        )

    def failed(self, played: Played) -> BoolArray:
        """Return which episodes have failed, bool [K, E]."""
        if self.rule.threshold is not None:
            return np.asarray(played.returns < self.rule.threshold)
        if played.won is None:  # the task has wins, and none of these episodes came to one
            return np.ones(played.returns.shape, bool)
        return np.asarray(played.won != 1)

    def _returns(self, who: Player, played: Played) -> PerturbedReturn:
        before = self.unperturbed[who].returns
        random = self.unperturbed["random"].returns
        kept = quotient_interval(played.returns - random, before - random)
        return PerturbedReturn(
            returns=interval_estimate(mean_interval(played.returns)),
            change=interval_estimate(mean_interval(played.returns - before)),
            kept=estimate(kept),
            won=None if played.won is None else interval_estimate(rate_interval(played.won)),
        )


def interval_estimate(interval: Interval) -> Estimate:
    """Return an interval as reports state it."""
    return Estimate(**interval._asdict())


def tolerances(plays: Sequence[PerturbedPlay], who: Who, keep: float) -> tuple[Tolerance, ...]:
    """Return the strengths of each perturbation at which ``keep`` of the gain is shown to be left.

    The lower end of the interval decides, since a tolerance is a claim. A strength is tolerated
    where all smaller ones that were played are, too.
    """
    found = []
    for name in dict.fromkeys(play.perturbation for play in plays):
        rows = sorted((p for p in plays if p.perturbation == name), key=lambda p: p.strength)
        scores = [(row.strength, getattr(row, who)) for row in rows]
        known = [(strength, s.kept) for strength, s in scores if s is not None and s.kept]
        if not known:
            continue
        enough = [kept.low >= keep for _, kept in known]
        count = enough.index(False) if False in enough else len(enough)
        tolerated, kept = known[count - 1] if count else (0.0, None)
        exceeded = known[count][0] if count < len(known) else None
        found.append(
            Tolerance(
                perturbation=name,
                unit=rows[0].unit,
                tolerated=tolerated,
                exceeded=exceeded,
                kept=kept,
            )
        )
    return tuple(found)


def metrics_of(report: RobustnessReport) -> dict[str, float]:
    """Return the results of an audit as metrics, by the names in docs/guide/tracking.md."""
    named: dict[str, float | None] = {}
    for mode, scores in report.modes.items():
        audited = "audit" if mode == "greedy" else f"audit/{mode}"
        for play in (scores.unperturbed, *scores.plays):
            prefix = f"{audited}/{play.perturbation}"
            if play.perturbation != NONE:
                prefix += f"/{play.strength:g}"
            for who in ("expert", "students"):
                score: PerturbedReturn | None = getattr(play, who)
                if score is not None:
                    named[f"{prefix}/return/{who}"] = score.returns.mean
                    named[f"{prefix}/kept/{who}"] = None if score.kept is None else score.kept.mean
            if play.failures is not None:
                named[f"{prefix}/failures_together"] = play.failures.together.mean
    if report.errors is not None:
        named["audit/errors_together"] = report.errors.together.mean
    return {name: value for name, value in named.items() if value is not None}
