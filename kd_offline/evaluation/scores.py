"""Turn rollouts into the scores of ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kd_offline.evaluation.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    rate_interval,
)
from kd_offline.evaluation.play import SidePlay, SwapPlay, wins
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
    ExpertScore,
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
    spec: EnvironmentSpec,
    sides: dict[str, SidePlay],
    seeds: Sequence[int],
    others: Mapping[str, Rollout] = MappingProxyType({}),
) -> ModeScore:
    """Return the scores of greedy or of sampled play; ``seeds`` are the distillation seeds.

    ``others``: rollouts of further experts, by name.
    """
    by_side = {name: play.samples() for name, play in sides.items()}
    total = add_sides(list(by_side.values()))
    retentions = retention(total)
    plays = list(sides.values())
    return ModeScore(
        **_estimates(total),
        retention=_retention_points(retentions),
        retention_intervals=_retention_intervals(retentions),
        win_rate=_win_rates(plays[0]) if total.expert_won is not None else None,
        sides={name: _side_score(spec, sides[name], samples) for name, samples in by_side.items()},
        seeds=_seed_scores(total, seeds),
        length=_lengths(plays),
        agreement=agreement(spec, plays),
        experts={name: _expert_score(total, r.returns.sum(1)) for name, r in others.items()}
        or None,
    )


def _expert_score(total: Samples, returns: _F64) -> ExpertScore:
    samples = replace(total, expert=returns[None], expert_won=None, student_won=None)
    return ExpertScore(
        expert=_to_estimate(mean_interval(samples.expert)),
        difference=_to_estimate(difference_interval(samples.student, samples.expert)),
        normalised=estimate(retention(samples).normalised),
    )


def _side_score(spec: EnvironmentSpec, play: SidePlay, samples: Samples) -> SideScore:
    retentions = retention(samples)
    return SideScore(
        agents=tuple(spec.agents[i] for i in play.agents),
        **_estimates(samples),
        retention=_retention_points(retentions),
        retention_intervals=_retention_intervals(retentions),
    )


def estimate(interval: Interval | None) -> Estimate | None:
    """Return the interval as the model that ``evaluation.json`` holds; None for None."""
    return None if interval is None else Estimate(**interval._asdict())


def _to_estimate(interval: Interval) -> Estimate:
    return Estimate(**interval._asdict())


def _estimates(samples: Samples) -> dict[str, Estimate | None]:
    return {
        "expert": _to_estimate(mean_interval(samples.expert)),
        "student": _to_estimate(mean_interval(samples.student)),
        "random": _to_estimate(mean_interval(samples.random)),
        "ceiling": None
        if samples.ceiling is None
        else _to_estimate(mean_interval(samples.ceiling)),
    }


def _retention_points(retentions: Retention) -> RetentionScores:
    return RetentionScores(
        ratio=retentions.ratio and retentions.ratio.mean,
        normalised=retentions.normalised and retentions.normalised.mean,
        of_ceiling=retentions.of_ceiling and retentions.of_ceiling.mean,
    )


def _retention_intervals(retentions: Retention) -> RetentionIntervals:
    return RetentionIntervals(
        ratio=estimate(retentions.ratio),
        normalised=estimate(retentions.normalised),
        of_ceiling=estimate(retentions.of_ceiling),
    )


def _win_rates(play: SidePlay) -> WinRates:
    def rate(*rollouts: Rollout) -> Estimate:
        return _to_estimate(rate_interval(wins(*rollouts)))

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
    """Return how often students choose the expert's action, pooled over distillation seeds.

    None where agreement was not measured, or where no agent had a choice.
    """
    decisions, equal, kl = np.zeros(spec.n_agents), np.zeros(spec.n_agents), np.zeros(spec.n_agents)
    joint = moments = 0
    for play in plays:
        agent_indices = list(play.agents)
        side = spec.side_of[agent_indices[0]]
        for student_rollout in play.students:
            if student_rollout.agreement is None:
                return None
            decisions[agent_indices] += student_rollout.agreement.decisions.sum(axis=0)[
                agent_indices
            ]
            equal[agent_indices] += student_rollout.agreement.equal.sum(axis=0)[agent_indices]
            kl[agent_indices] += student_rollout.agreement.kl.sum(axis=0)[agent_indices]
            joint += int(student_rollout.agreement.joint[:, side].sum())
            moments += int(student_rollout.agreement.moments[:, side].sum())
    if not moments:
        return None
    deciding = [(i, name) for i, name in enumerate(spec.agents) if decisions[i]]
    return Agreement(
        action=float(equal.sum() / decisions.sum()),
        joint=joint / moments,
        agents={name: float(equal[i] / decisions[i]) for i, name in deciding},
        kl={name: float(kl[i] / decisions[i]) for i, name in deciding},
    )


def action_heats(spec: EnvironmentSpec, plays: Sequence[SidePlay]) -> tuple[ActionHeat, ...]:
    """Return each agent's action frequencies at every step, in the order of the agents."""
    frequencies = {}
    for play in plays:
        student = np.mean(_same_length([r.action_frequency for r in play.students]), axis=0)
        expert, student = _same_length([play.expert.action_frequency, student])
        for i in play.agents:
            names = spec.action_names[i]
            frequencies[i] = ActionHeat(
                agent=spec.agents[i],
                actions=names,
                expert=_rows(expert[i, :, : len(names)]),
                student=_rows(student[i, :, : len(names)]),
            )
    return tuple(frequencies[i] for i in sorted(frequencies))


def _same_length(frequencies: Sequence[_F64]) -> list[_F64]:
    steps = max(f.shape[1] for f in frequencies)
    return [np.pad(f, ((0, 0), (0, steps - f.shape[1]), (0, 0))) for f in frequencies]


def _rows(frequency: _F64) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in np.round(frequency, 4).tolist())


def cross_play(
    spec: EnvironmentSpec, sides: Mapping[str, SidePlay], swapped: Mapping[str, SwapPlay]
) -> CrossPlay:
    """Score teams in which one agent is swapped between expert and students; see ``CrossPlay``.

    ``swapped``: by side, what :func:`~kd_offline.evaluation.play.play_swaps` played.
    """
    swaps: dict[int, tuple[_Swap, _Swap]] = {}
    for side, play in sides.items():
        for agent, (student_swaps, expert_swaps) in swapped[side].items():
            swaps[agent] = _swap(play, student_swaps), _swap(play, expert_swaps)
    alone, others = zip(*(swaps[i] for i in range(spec.n_agents)), strict=True)
    return CrossPlay(
        agents=spec.agents,
        student_among_experts=tuple(swap.retention for swap in alone),
        expert_among_students=tuple(swap.retention for swap in others),
        returns=Swaps(
            student_among_experts=tuple(swap.returns for swap in alone),
            expert_among_students=tuple(swap.returns for swap in others),
        ),
        win_rates=_swapped_wins(alone, others),
    )


class _Swap(NamedTuple):
    """Results of one mixed team, on its agent's side."""

    retention: Estimate | None
    returns: Estimate
    won: Estimate | None


def _swap(play: SidePlay, mixed: Sequence[Rollout]) -> _Swap:
    returns = play.returns(*mixed)
    samples = Samples(play.returns(play.expert), returns, play.returns(play.random))
    has_wins = play.samples().expert_won is not None
    return _Swap(
        estimate(retention(samples).normalised),
        _to_estimate(mean_interval(returns)),
        _to_estimate(rate_interval(wins(*mixed))) if has_wins else None,
    )


def _swapped_wins(alone: Sequence[_Swap], others: Sequence[_Swap]) -> Swaps | None:
    student_wins, expert_wins = (
        tuple(s.won for s in swaps if s.won is not None) for swaps in (alone, others)
    )
    if len(student_wins) < len(alone):
        return None
    return Swaps(student_among_experts=student_wins, expert_among_students=expert_wins)
