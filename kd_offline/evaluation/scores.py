"""From rollouts to the figures of ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kd_offline.evaluation.intervals import Interval, mean_interval, rate_interval
from kd_offline.evaluation.play import EvaluationRunner, PolicySet, SidePlay, play_swaps, wins
from kd_offline.evaluation.retention import (
    Retention,
    Samples,
    add_sides,
    normalised_of,
    retention,
)
from kd_offline.evaluation.rollout import Rollout
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.evaluation import (
    ActionHeat,
    Agreement,
    CrossPlay,
    Estimate,
    ModeScore,
    RetentionIntervals,
    RetentionScores,
    SeedScore,
    SideScore,
    Swaps,
    WinRates,
)

_F64 = npt.NDArray[np.float64]


def mode_score(
    spec: EnvironmentSpec, sides: dict[str, SidePlay], seeds: Sequence[int]
) -> ModeScore:
    """Return the figures of greedy or of sampled play; ``seeds`` are the distillation seeds."""
    by_side = {name: play.samples() for name, play in sides.items()}
    total = add_sides(list(by_side.values()))
    kept = retention(total)
    plays = list(sides.values())
    return ModeScore(
        **_estimates(total),
        retention=_points(kept),
        retention_intervals=_intervals(kept),
        win_rate=_win_rates(plays[0]) if total.expert_won is not None else None,
        sides={name: _side_score(spec, sides[name], samples) for name, samples in by_side.items()},
        seeds=_seed_scores(total, seeds),
        length=_lengths(plays),
        agreement=agreement(spec, plays),
    )


def _side_score(spec: EnvironmentSpec, play: SidePlay, samples: Samples) -> SideScore:
    kept = retention(samples)
    return SideScore(
        agents=tuple(spec.agents[i] for i in play.agents),
        **_estimates(samples),
        retention=_points(kept),
        retention_intervals=_intervals(kept),
    )


def estimate(interval: Interval | None) -> Estimate | None:
    """Return the interval as it is written."""
    return None if interval is None else Estimate(**interval._asdict())


def _known(interval: Interval) -> Estimate:
    return Estimate(**interval._asdict())


def _estimates(samples: Samples) -> dict[str, Estimate | None]:
    return {
        "expert": _known(mean_interval(samples.expert)),
        "student": _known(mean_interval(samples.student)),
        "random": _known(mean_interval(samples.random)),
        "ceiling": None if samples.ceiling is None else _known(mean_interval(samples.ceiling)),
    }


def _points(kept: Retention) -> RetentionScores:
    return RetentionScores(
        ratio=kept.ratio and kept.ratio.mean,
        normalised=kept.normalised and kept.normalised.mean,
        of_ceiling=kept.of_ceiling and kept.of_ceiling.mean,
    )


def _intervals(kept: Retention) -> RetentionIntervals:
    return RetentionIntervals(
        ratio=estimate(kept.ratio),
        normalised=estimate(kept.normalised),
        of_ceiling=estimate(kept.of_ceiling),
    )


def _win_rates(play: SidePlay) -> WinRates:
    def rate(*rollouts: Rollout) -> Estimate:
        return _known(rate_interval(wins(*rollouts)))

    return WinRates(
        expert=rate(play.expert),
        student=rate(*play.students),
        random=rate(play.random),
        ceiling=None if play.ceiling is None else rate(play.ceiling),
    )


def _seed_scores(total: Samples, seeds: Sequence[int]) -> tuple[SeedScore, ...]:
    won = total.student_won
    return tuple(
        SeedScore(
            seed=seed,
            mean=float(row.mean()),
            normalised=normalised_of(row, total.expert, total.random),
            won=None if won is None else float(won[k].mean()),
        )
        for k, (seed, row) in enumerate(zip(seeds, total.student, strict=True))
    )


def _lengths(plays: Sequence[SidePlay]) -> dict[str, float]:
    groups = {
        "expert": [play.expert for play in plays],
        "student": [r for play in plays for r in play.students],
        "random": [play.random for play in plays],
        "ceiling": [play.ceiling for play in plays if play.ceiling is not None],
    }
    return {
        name: float(np.mean([r.lengths.mean() for r in rollouts]))
        for name, rollouts in groups.items()
        if rollouts
    }


def agreement(spec: EnvironmentSpec, plays: Sequence[SidePlay]) -> Agreement | None:
    """Return how often students choose what the expert would, pooled over distillation seeds.

    None where it was not measured, or where nobody had a choice.
    """
    made, equal, kl = np.zeros(spec.n_agents), np.zeros(spec.n_agents), np.zeros(spec.n_agents)
    joint = moments = 0
    for play in plays:
        mine = list(play.agents)
        side = spec.side_of[mine[0]]
        for done in play.students:
            if done.agreement is None:
                return None
            made[mine] += done.agreement.decisions.sum(axis=0)[mine]
            equal[mine] += done.agreement.equal.sum(axis=0)[mine]
            kl[mine] += done.agreement.kl.sum(axis=0)[mine]
            joint += int(done.agreement.joint[:, side].sum())
            moments += int(done.agreement.moments[:, side].sum())
    if not moments:
        return None
    deciding = [(i, name) for i, name in enumerate(spec.agents) if made[i]]
    return Agreement(
        action=float(equal.sum() / made.sum()),
        joint=joint / moments,
        agents={name: float(equal[i] / made[i]) for i, name in deciding},
        kl={name: float(kl[i] / made[i]) for i, name in deciding},
    )


def action_heats(spec: EnvironmentSpec, plays: Sequence[SidePlay]) -> tuple[ActionHeat, ...]:
    """Return each agent's action frequencies over time, in the order of the agents."""
    heats = {}
    for play in plays:
        student = np.mean(_same_length([r.action_frequency for r in play.students]), axis=0)
        expert, student = _same_length([play.expert.action_frequency, student])
        for i in play.agents:
            names = spec.action_names[i]
            heats[i] = ActionHeat(
                agent=spec.agents[i],
                actions=names,
                expert=_rows(expert[i, :, : len(names)]),
                student=_rows(student[i, :, : len(names)]),
            )
    return tuple(heats[i] for i in sorted(heats))


def _same_length(frequencies: Sequence[_F64]) -> list[_F64]:
    steps = max(f.shape[1] for f in frequencies)
    return [np.pad(f, ((0, 0), (0, steps - f.shape[1]), (0, 0))) for f in frequencies]


def _rows(frequency: _F64) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in np.round(frequency, 4).tolist())


def cross_play(runner: EvaluationRunner, who: PolicySet, sides: dict[str, SidePlay]) -> CrossPlay:
    """Swap single agents between the expert's and the students' teams; see ``CrossPlay``."""
    spec = runner.environment.spec
    swaps: dict[int, tuple[_Swap, _Swap]] = {}
    for play in sides.values():
        for agent, (one, rest) in play_swaps(runner, who, play.agents).items():
            swaps[agent] = _swap(play, one), _swap(play, rest)
    alone, others = zip(*(swaps[i] for i in range(spec.n_agents)), strict=True)
    return CrossPlay(
        agents=spec.agents,
        student_among_experts=tuple(swap.kept for swap in alone),
        expert_among_students=tuple(swap.kept for swap in others),
        returns=Swaps(
            student_among_experts=tuple(swap.returns for swap in alone),
            expert_among_students=tuple(swap.returns for swap in others),
        ),
        win_rates=_swapped_wins(alone, others),
    )


class _Swap(NamedTuple):
    """What one mixed team reached, for its agent's side."""

    kept: Estimate | None
    returns: Estimate
    won: Estimate | None


def _swap(play: SidePlay, mixed: Sequence[Rollout]) -> _Swap:
    returns = play.returns(*mixed)
    samples = Samples(play.returns(play.expert), returns, play.returns(play.random))
    has_wins = play.samples().expert_won is not None
    return _Swap(
        estimate(retention(samples).normalised),
        _known(mean_interval(returns)),
        _known(rate_interval(wins(*mixed))) if has_wins else None,
    )


def _swapped_wins(alone: Sequence[_Swap], others: Sequence[_Swap]) -> Swaps | None:
    one, rest = (tuple(s.won for s in swaps if s.won is not None) for swaps in (alone, others))
    if len(one) < len(alone):
        return None
    return Swaps(student_among_experts=one, expert_among_students=rest)
