"""The section of a report on robustness: perturbed play, tolerances, and what seeds share."""

from __future__ import annotations

from kd_offline.reports.formatting import interval, number, percent
from kd_offline.reports.page import Section
from kd_offline.reports.tables import Table, table
from kd_offline.schemas.evaluation import Estimate
from kd_offline.schemas.robustness import (
    Mode,
    ModeScores,
    PerturbedPlay,
    PerturbedReturn,
    RobustnessReport,
)

DASH = "\N{EN DASH}"
_CHOSEN: dict[Mode, str] = {"greedy": "greedily", "sampled": "by sampling"}


def robustness_section(report: RobustnessReport) -> Section:
    """Return the section on an audit."""
    modes = report.modes
    chosen = " and ".join(_CHOSEN[mode] for mode in modes)
    text = (
        f"Expert and students played the same {report.episodes:,} episodes {chosen}, with and "
        "without perturbations. Kept is the gain over random play, divided by the unperturbed "
        f"gain. An episode has failed where it is {_failure(report)}. Seeds that fail together "
        "more often than independent ones share a weakness, and so does a fleet of their copies."
    )
    if report.status != "complete":
        text += " The audit was interrupted: what it had not finished is missing."
    tables: list[Table | None] = []
    for mode, scores in modes.items():
        played = f", {_CHOSEN[mode]}" if len(modes) > 1 else ""
        tables += [
            perturbation_table(scores, played),
            tolerance_table(scores, report.keep, played),
            failure_table(scores, played),
            comparison_table(report, scores, played),
        ]
    tables += [error_table(report), error_comparison_table(report)]
    present = tuple(one for one in tables if one is not None and one.rows)
    return Section("robustness", "Robustness", " ".join([text, *remarks(report)]), (), present)


def remarks(report: RobustnessReport) -> list[str]:
    """Return sentences on what an audit lacks: policies not played, shares undefined, notes."""
    named = {"expert": "The expert was", "students": "Students were"}
    modes = report.modes.values()
    plays = [play for scores in modes for play in scores.plays]
    reasons = dict.fromkeys(pair for play in plays for pair in play.declined.items())
    found = [f"{named[who]} not played where a dash stands: {why}." for who, why in reasons]
    for who, words in named.items():
        played: list[PerturbedReturn | None] = [getattr(s.unperturbed, who) for s in modes]
        if any(score is not None and score.kept is None for score in played):
            found.append(
                f"{words} not better than random play beyond doubt, so what is kept is undefined."
            )
    return found + [f"{note[0].upper()}{note[1:]}." for note in report.notes]


def perturbation_table(scores: ModeScores, played: str = "") -> Table:
    """Return the table of what expert and students keep under every perturbation.

    ``played`` is put behind the caption, where actions were chosen in several ways.
    """
    heads = "perturbation and strength|expert kept|95 % interval, %|students kept|"
    heads += "95 % interval, %|change beyond the expert's|95 % interval"
    rows = [
        (
            _name(play),
            *_kept(play.expert),
            *_kept(play.students),
            DASH if play.beyond_expert is None else number(play.beyond_expert.mean),
            interval(play.beyond_expert),
        )
        for play in scores.plays
    ]
    return table(f"Play under perturbations{played}", heads, rows)


def tolerance_table(scores: ModeScores, keep: float, played: str = "") -> Table:
    """Return the strengths that students and expert tolerate."""
    experts = {row.perturbation: row for row in scores.expert_tolerances}
    rows = []
    for row in scores.tolerances:
        expert = experts.get(row.perturbation)
        rows.append(
            (
                row.perturbation,
                row.unit,
                f"{row.tolerated:g}",
                DASH if row.exceeded is None else f"{row.exceeded:g}",
                DASH if expert is None else f"{expert.tolerated:g}",
            )
        )
    return table(
        f"Largest strength played at which {percent(keep)} of the gain is shown to be kept{played}",
        "perturbation|strength is|students tolerate|no longer shown at|expert tolerates",
        rows,
    )


def failure_table(scores: ModeScores, played: str = "") -> Table:
    """Return how often all seeds fail in one episode, beside what independence would give."""
    rows = []
    for play in (scores.unperturbed, *scores.plays):
        failures = play.failures
        if failures is None:
            continue
        rows.append(
            (
                _name(play),
                percent(sum(failures.rates) / len(failures.rates)),
                percent(failures.together.mean),
                interval(failures.together, share=True),
                percent(failures.independent),
                percent(failures.without_expert),
                DASH if failures.correlation is None else f"{failures.correlation:.2f}",
            )
        )
    heads = "perturbation and strength|failed, mean of the seeds|every seed failed|"
    heads += "95 % interval, %|if independent|every seed but not the expert|correlation"
    return table(f"Failed episodes that seeds share{played}", heads, rows)


def error_table(report: RobustnessReport) -> Table | None:
    """Return how often all seeds are wrong in one recorded decision; None if not compared."""
    errors = report.errors
    if errors is None:
        return None
    rows = [
        (name, percent(one.error), percent(one.together), percent(one.independent))
        for name, one in errors.agents.items()
    ]
    mean = percent(sum(errors.rates) / len(errors.rates))
    everyone = percent(errors.together.mean)
    rows.append(("all agents", mean, everyone, percent(errors.independent)))
    if errors.team is not None:
        at_once = percent(errors.team)
        rows.append(("whole side at once", at_once, DASH, percent(errors.team_independent)))
    caption = f"Actions that are not the expert's, in {errors.episodes:,} recorded episodes"
    if errors.alike is not None:
        caption += (
            f"; where two seeds are wrong, {percent(errors.alike)} take the same action "
            f"(drawn uniformly: {percent(errors.alike_by_chance)})"
        )
    return table(caption, "agent|wrong, mean of the seeds|every seed wrong|if independent", rows)


def comparison_table(
    report: RobustnessReport, scores: ModeScores, played: str = ""
) -> Table | None:
    """Return how much fewer failures are common than in another run, and what that costs.

    None where no run was given.
    """
    if report.comparison is None:
        return None
    rows = []
    for play in (scores.unperturbed, *scores.plays):
        own, beside = play.failures, play.comparison
        if own is None or beside is None:
            continue
        rows.append(
            (
                _name(play),
                percent(own.together.mean),
                percent(beside.failures.together.mean),
                *_points(beside.together_change),
                *_points(beside.failed_change),
                number(beside.returns_change.mean),
                interval(beside.returns_change),
            )
        )
    heads = "perturbation and strength|every seed failed|in the other|change|95 % interval, %|"
    heads += "change of one seed's failures|95 % interval, %|change of return|95 % interval"
    caption = f"Beside {report.comparison.run}, paired by episode{played}"
    return table(caption, heads, rows)


def error_comparison_table(report: RobustnessReport) -> Table | None:
    """Return how much fewer recorded decisions are wrong in common than in another run.

    None where no run was given, or no dataset.
    """
    own, beside = report.errors, report.comparison
    if own is None or beside is None or beside.errors is None:
        return None
    other = beside.errors
    one, two = (sum(errors.rates) / len(errors.rates) for errors in (own, other))
    rows = [
        _wrong("every seed", own.together.mean, other.together.mean, beside.errors_change),
        _wrong("one seed", one, two, beside.wrong_change),
    ]
    caption = f"Recorded decisions that are wrong, beside {beside.run}, paired by episode"
    return table(caption, "wrong|this run|the other|change|95 % interval, %", rows)


def _wrong(name: str, own: float, other: float, change: Estimate | None) -> tuple[str, ...]:
    points = (DASH, DASH) if change is None else _points(change)
    return name, percent(own), percent(other), *points


def _points(change: Estimate) -> tuple[str, str]:
    return percent(change.mean), interval(change, share=True)


def _name(play: PerturbedPlay) -> str:
    return f"{play.perturbation} {play.strength:g}" if play.unit else play.perturbation


def _kept(score: PerturbedReturn | None) -> tuple[str, str]:
    if score is None or score.kept is None:
        return DASH, DASH
    return percent(score.kept.mean), interval(score.kept, share=True)


def _failure(report: RobustnessReport) -> str:
    rules = [scores.failure for scores in report.modes.values()]
    if rules[0].threshold is None:
        return "not won"
    thresholds = " and ".join(number(rule.threshold or 0.0) for rule in rules)
    return (
        f"below {thresholds}, the {percent(rules[0].quantile)} quantile of the unperturbed "
        "expert's returns"
    )
