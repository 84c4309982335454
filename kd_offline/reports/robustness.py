"""The section of a report on robustness: perturbed play, tolerances, and what seeds share."""

from __future__ import annotations

from kd_offline.reports.formatting import interval, number, percent
from kd_offline.reports.page import Section
from kd_offline.reports.tables import Table, table
from kd_offline.schemas.robustness import PerturbedPlay, PerturbedReturn, RobustnessReport

DASH = "\N{EN DASH}"


def robustness_section(report: RobustnessReport) -> Section:
    """Return the section on an audit."""
    text = (
        f"Expert and students played the same {report.episodes:,} episodes greedily, with and "
        "without perturbations. Kept is the gain over random play, divided by the unperturbed "
        f"gain. An episode has failed where it is {_failure(report)}. Seeds that fail together "
        "more often than independent ones share a weakness, and so does a fleet of their copies."
    )
    if report.status != "complete":
        text += " The audit was interrupted: what it had not finished is missing."
    tables = [
        perturbation_table(report),
        tolerance_table(report),
        failure_table(report),
        error_table(report),
        comparison_table(report),
    ]
    present = tuple(one for one in tables if one is not None and one.rows)
    return Section("robustness", "Robustness", " ".join([text, *remarks(report)]), (), present)


def remarks(report: RobustnessReport) -> list[str]:
    """Return sentences on what an audit lacks: policies not played, shares undefined, notes."""
    named = {"expert": "The expert was", "students": "Students were"}
    reasons = dict.fromkeys(pair for play in report.plays for pair in play.declined.items())
    found = [f"{named[who]} not played where a dash stands: {why}." for who, why in reasons]
    for who, words in named.items():
        score: PerturbedReturn | None = getattr(report.unperturbed, who)
        if score is not None and score.kept is None:
            found.append(
                f"{words} not better than random play beyond doubt, so what is kept is undefined."
            )
    return found + [f"{note[0].upper()}{note[1:]}." for note in report.notes]


def perturbation_table(report: RobustnessReport) -> Table:
    """Return the table of what expert and students keep under every perturbation."""
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
        for play in report.plays
    ]
    return table("Play under perturbations", heads, rows)


def tolerance_table(report: RobustnessReport) -> Table:
    """Return the strengths that students and expert tolerate."""
    experts = {row.perturbation: row for row in report.expert_tolerances}
    rows = []
    for row in report.tolerances:
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
        f"Largest strength played at which {percent(report.keep)} of the gain is shown to be kept",
        "perturbation|strength is|students tolerate|no longer shown at|expert tolerates",
        rows,
    )


def failure_table(report: RobustnessReport) -> Table:
    """Return how often all seeds fail in one episode, beside what independence would give."""
    rows = []
    for play in (report.unperturbed, *report.plays):
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
    return table("Failed episodes that seeds share", heads, rows)


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


def comparison_table(report: RobustnessReport) -> Table | None:
    """Return the comparison of common failures with another run; None without one."""
    other, students = report.comparison, report.unperturbed.students
    if other is None or students is None or report.unperturbed.failures is None:
        return None
    own = report.unperturbed.failures
    rows = [
        (
            "mean return",
            number(students.returns.mean),
            number(other.returns.mean),
            number(other.returns_change.mean),
            interval(other.returns_change),
        ),
        (
            "every seed failed",
            percent(own.together.mean),
            percent(other.failures.together.mean),
            percent(other.together_change.mean),
            interval(other.together_change, share=True) + " %",
        ),
    ]
    if report.errors and other.errors and other.errors_change:
        rows.append(
            (
                "every seed wrong",
                percent(report.errors.together.mean),
                percent(other.errors.together.mean),
                percent(other.errors_change.mean),
                interval(other.errors_change, share=True) + " %",
            )
        )
    caption = f"Beside {other.run}, unperturbed, paired by episode"
    return table(caption, "figure|this run|the other|change|95 % interval", rows)


def _name(play: PerturbedPlay) -> str:
    return f"{play.perturbation} {play.strength:g}" if play.unit else play.perturbation


def _kept(score: PerturbedReturn | None) -> tuple[str, str]:
    if score is None or score.kept is None:
        return DASH, DASH
    return percent(score.kept.mean), interval(score.kept, share=True)


def _failure(report: RobustnessReport) -> str:
    rule = report.failure
    if rule.threshold is None:
        return "not won"
    return (
        f"below {number(rule.threshold)}, the {percent(rule.quantile)} quantile of the unperturbed "
        "expert's returns"
    )
