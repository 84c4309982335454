"""Format numbers for readers, and write the sentences and figures at the top of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kd_offline.runs.judged import judged
from kd_offline.schemas.evaluation import Estimate, EvaluationReport, ModeScore, SideScore
from kd_offline.schemas.export import Gate
from kd_offline.schemas.run import RunManifest
from kd_offline.schemas.sweep import SweepReport

_FEW_SEEDS = 5
_FEW_EPISODES = 1000


def number(value: float, digits: int = 2) -> str:
    """Return a number with a true minus sign and thousands separators."""
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def whole(value: float) -> str:
    """Return a number, rounded to an integer, with thousands separators."""
    return f"{round(value):,}"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage, or a dash where it is undefined."""
    if share is None:
        return "\N{EN DASH}"
    return f"{number(100 * share, digits)}\N{NO-BREAK SPACE}%"


def interval(estimate: Estimate | None, *, share: bool = False) -> str:
    """Return the ends of an interval as text; a dash for None."""
    if estimate is None:
        return "\N{EN DASH}"
    scale, digits = (100, 1) if share else (1, 2)
    return f"{number(scale * estimate.low, digits)} to {number(scale * estimate.high, digits)}"


def replayed(check: Gate) -> str:
    """Return on which episodes the parity check of an export ran."""
    if check.part is None:
        return "recorded episodes"
    if check.part == "train":
        return "training episodes (nothing is held out)"
    return f"held-out episodes (part {check.part!r})"


def agreement_of(report: SweepReport) -> str:
    """Return on which episodes a sweep measured agreement."""
    if report.plan.part is None:
        return "that on recorded episodes"
    if report.plan.part == "train":
        return (
            "that on the training episodes, because nothing is held out: it ranks memory, not what "
            "students do on unseen episodes"
        )
    return f"that on held-out episodes (part {report.plan.part!r})"


def significant(value: float) -> str:
    """Return a number with four significant digits and without an exponent.

    Numbers of 1000 or more are rounded to an integer.
    """
    if value == 0 or abs(value) >= 1000:
        return number(value, 0)
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    text = number(value, decimals)
    return text.rstrip("0").rstrip(".") if "." in text else text


def short(digest: str) -> str:
    """Return the first 19 characters of a digest: its name and 12 hexadecimal digits."""
    return digest[:19]


def duration(seconds: float) -> str:
    """Return a duration in seconds, or in minutes from 120 s on."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


@dataclass(frozen=True, slots=True)
class Card:
    """One large figure at the top of a page."""

    label: str
    value: str
    detail: str
    tone: str


def cards(report: EvaluationReport) -> list[Card]:
    """Return the large figures of a report: retention, returns, cost and agreement."""
    cards = [
        _retention_card(f"kept, {name}", mode)
        for name, mode in (("greedy", report.greedy), ("sampled", report.sampled))
        if mode is not None
    ]
    score = report.greedy or report.sampled
    if score is not None:
        others = f"students {number(score.student.mean)}, random {number(score.random.mean)}"
        cards.append(Card("the expert's own return", number(score.expert.mean), others, "expert"))
    if score is not None and len(score.sides) > 1:
        cards += [
            _retention_card(f"kept by side {name}", side) for name, side in score.sides.items()
        ]
    if score is not None and score.retention.of_ceiling is not None:
        ends = interval(score.retention_intervals.of_ceiling, share=True)
        value = percent(score.retention.of_ceiling)
        cards.append(Card("of the mask ceiling", value, _ends(ends), "ceiling"))
    cost = report.cost
    flops = f"{whole(cost.student.flops)} instead of {whole(cost.expert.flops)} a team step"
    times, _, which = fewer(cost.flops_reduction).partition(" times ")
    value = f"{times}\N{MULTIPLICATION SIGN}" if which else "from 0"
    cards.append(Card(f"{which or 'more'} FLOPs", value, flops, "expert"))
    joint = f"whole team {percent(report.joint_agreement)}"
    if report.agreement is not None:
        cards.append(Card("same action as the expert", percent(report.agreement), joint, "random"))
    return cards


def _retention_card(label: str, mode: ModeScore | SideScore) -> Card:
    ends = interval(mode.retention_intervals.normalised, share=True)
    return Card(label, percent(mode.retention.normalised), _ends(ends), "student")


def _ends(ends: str) -> str:
    space = "\N{NO-BREAK SPACE}"
    return f"95{space}% interval {ends} %".replace(f"{ends} %", f"{ends} %".replace(" ", space))


def headline(report: EvaluationReport) -> str:
    """Return the results in two or three sentences that can stand alone."""
    mode, manner = (report.greedy, "greedily") if report.greedy else (report.sampled, "by sampling")
    if mode is None:
        return "Nothing was played."
    evidence = (
        f"over {whole(report.episodes)} evaluation episodes and "
        f"{_count(len(report.distillation_seeds), 'distillation seed')}"
    )
    if mode.retention.normalised is None:
        played = (
            f"Played {manner}, the expert is not reliably better than random play {evidence}, "
            "so there is nothing to retain and no retention is given."
        )
    else:
        limits = interval(mode.retention_intervals.normalised, share=True)
        played = (
            f"Played {manner}, the students keep {percent(mode.retention.normalised)} of what the "
            f"expert gains over random play (95 % interval {limits} %), {evidence}."
        )
    played += _sides(mode)
    if mode.retention.of_ceiling is not None:
        played += (
            f" That is {percent(mode.retention.of_ceiling)} of what the best known policy under "
            "the same mask gains."
        )
    cost = report.cost
    costs = (
        f" They need {fewer(cost.flops_reduction)} FLOPs a team step and "
        f"{fewer(cost.parameters_reduction)} parameters"
    )
    if (once := cost.parameters_reduction_once) is not None:
        times = fewer(once).removesuffix(" fewer")
        costs += f" ({times} where the expert's shared networks count once)"
    return f"{played}{costs}."


def fewer(reduction: float) -> str:
    """Return ``reduction`` (expert / student) in words, such as ``2.5 times fewer``."""
    if reduction >= 1:
        return f"{reduction:.1f} times fewer"
    return f"{1 / reduction:.1f} times more" if reduction > 0 else "more"


def cost_share(reduction: float) -> str:
    """Return the students' share of the expert's cost, such as ``1/22.7`` or ``2.5 times more``."""
    return f"1/{reduction:.1f}" if reduction >= 1 else fewer(reduction)


def _sides(mode: ModeScore) -> str:
    if len(mode.sides) < 2:
        return ""
    parts = [f"{name} keeps {percent(s.retention.normalised)}" for name, s in mode.sides.items()]
    return f" Against the expert's other sides, {', '.join(parts)}."


def caveats(report: EvaluationReport, manifest: RunManifest) -> list[str]:
    """Return the caveats of the figures, one sentence each."""
    seeds, notes = len(report.distillation_seeds), []
    if seeds == 1:
        notes.append(
            "One distillation seed: the intervals cover evaluation episodes only, and another seed "
            "may land elsewhere."
        )
    elif seeds < _FEW_SEEDS:
        notes.append(
            f"{seeds} distillation seeds: the intervals are wide, since so few seeds say little "
            "about the next one."
        )
    if report.episodes < _FEW_EPISODES:
        notes.append(f"Only {whole(report.episodes)} episodes: treat small differences as noise.")
    if manifest.judged_by is None or manifest.judged_by.episodes == 1:
        selection = judged(manifest)
        notes.append(f"{selection[0].upper()}{selection[1:]}.")
    if manifest.mask != "full" and report.ceiling_policy is None:
        notes.append(
            "No mask ceiling was played, so what the mask hides and what distillation lost are "
            "not told apart."
        )
    if report.opponents:
        notes.append(
            "The sides have opposing interests: each is measured with its students against the "
            "expert's other sides, and the parts are added."
        )
    notes.append(
        "FLOPs are not time: networks this small are bound by overhead on most hardware, so "
        "measure latency on the target before promising speed."
    )
    return notes


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
