"""The page of a sweep: its Pareto front in each cost, and a table of all teams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle

from kd_offline.reports import svg
from kd_offline.reports.formatting import agreement_of, percent, short, significant
from kd_offline.reports.page import Section, fill
from kd_offline.reports.tables import Table, table
from kd_offline.schemas.budget import Quantity
from kd_offline.schemas.sweep import SweepPoint, SweepReport

_AXES: dict[Quantity, str] = {
    "macs": "multiply-accumulates a team step",
    "flash_kb": "flash, KB",
    "latency_us": "predicted time of a team step, us",
}
_QUALITY = {"retention": "retention", "agreement": "agreement with the expert"}
_RUN = re.compile(r"runs/\d+")
_MARKS = "os^DvPX"  # of architectures, in the order of the plan, and from the beginning again
_COLOURS = {"fp32": svg.EXPERT, "int8": svg.STUDENT}


def sweep_html(report: SweepReport) -> str:
    """Return the page as text; the same report gives the same bytes.

    Raises
    ------
    MissingExtraError
        jinja2 or matplotlib is not installed.
    """
    on_front = [point for point in report.points if point.front]
    quality_text = "the share of the expert's gain over random play that is kept"
    if report.plan.judge == "agreement":
        quality_text = f"agreement with the expert ({agreement_of(report)})"
    headline = (
        f"Of {len(report.points)} distilled teams, {len(on_front)} are beaten by no other in "
        f"{report.plan.judge}, arithmetic, bytes and predicted time at once."
    )
    text = (
        f"Up and to the left is better: {quality_text}, against each cost, summed over agents. The "
        "line goes through the teams that no other beats by that cost. Filled marks are teams that "
        "no other team beats in everything at once, hollow ones are beaten. Time is predicted by "
        f"the profile {report.plan.profile}, not measured."
    )
    sections = [
        Section("front", "The front", text, tuple(front_plot(report, cost) for cost in _AXES),
                (front_table(report),)),
        Section("all", "All teams", "Every team is a run folder of its own, to evaluate or export.",
                (), (points_table("All teams", report, report.points),)),
    ]  # fmt: skip
    return fill(
        "sweep.html.j2",
        report=report,
        headline=headline,
        short_id=short(report.dataset.id),
        sections=sections,
    )


def front_table(report: SweepReport) -> Table:
    """Return the teams on the Pareto front."""
    return points_table("Teams on the front", report, [p for p in report.points if p.front])


def points_table(caption: str, report: SweepReport, points: Sequence[SweepPoint]) -> Table:
    """Return a table with one row for each team."""
    rows = [
        (
            point.run,
            point.architecture,
            point.precision,
            ", ".join(map(str, point.widths)),
            "yes" if point.front else "",
            percent(point.quality),
            "\N{EN DASH}" if point.held_out_kl is None else significant(point.held_out_kl),
            *(significant(point.figures[name].value) for name in _AXES),
        )
        for point in points
    ]
    headings = f"run|network|weights|widths|front|{report.plan.judge}|held-out KL (fp32)"
    kinds = [f"{head} ({_kind(report, name)})" for name, head in _AXES.items()]
    links = {p.run: f"{p.run}/run.json" for p in points if _RUN.fullmatch(p.run)}
    return table(caption, "|".join([headings, *kinds]), rows, links)


def _kind(report: SweepReport, name: Quantity) -> str:
    return report.points[0].figures[name].kind if report.points else "predicted"


def best_by(points: Sequence[SweepPoint], cost: Quantity) -> list[SweepPoint]:
    """Return the teams that no other beats in quality and this single cost, cheapest first."""
    best: list[SweepPoint] = []
    for point in sorted(points, key=lambda p: (p.figures[cost].value, -p.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


@svg.style()
def front_plot(report: SweepReport, cost: Quantity) -> str:
    """Draw quality against one cost, with a line through the best teams by that cost."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    marks = dict(zip(report.plan.architectures, cycle(_MARKS), strict=False))
    figure, (ax,) = svg.figure(7.2, 3.0)
    line = best_by(report.points, cost)
    ax.step(
        [p.figures[cost].value for p in line],
        [p.quality for p in line],
        color=svg.MUTED, lw=0.9, where="post", zorder=1,
    )  # fmt: skip
    for point in report.points:
        colour = _COLOURS[point.precision]
        fill = colour if point.front else "none"
        marker = marks[point.architecture]
        position = ([point.figures[cost].value], [point.quality])
        ax.scatter(
            *position, s=26, marker=marker, facecolor=fill, edgecolor=colour, lw=0.9, zorder=2
        )
    values = [p.figures[cost].value for p in report.points if p.figures[cost].value > 0]
    if values and max(values) > 3 * min(values):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=12))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.locator_params(axis="x", nbins=6)
    ax.xaxis.set_major_formatter(lambda value, _: significant(value))
    ax.yaxis.set_major_formatter(lambda value, _: percent(value, 0))
    ax.set_xlabel(_AXES[cost])
    ax.set_ylabel(_QUALITY[report.plan.judge])
    ax.grid(visible=True, axis="y")
    for kind, precision in sorted({(p.architecture, p.precision) for p in report.points}):
        colour = _COLOURS[precision]
        ax.scatter([], [], marker=marks[kind], color=colour, label=f"{kind}, {precision}")
    if report.points:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, labelcolor=svg.MUTED)
    return svg.inline(figure, f"front-{cost}", f"{report.plan.judge} against {_AXES[cost]}")
