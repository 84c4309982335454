"""The page of a sweep: its front in every cost, and a table of all teams."""

from __future__ import annotations

from collections.abc import Sequence

from kd_offline.reports import svg
from kd_offline.reports.page import Section, fill
from kd_offline.reports.tables import Table, table
from kd_offline.reports.words import number, percent, short
from kd_offline.schemas.budget import Quantity
from kd_offline.schemas.sweep import SweepPoint, SweepReport

_AXES: dict[Quantity, str] = {
    "macs": "multiply-accumulates a team step",
    "flash_kb": "flash, KB",
    "latency_us": "predicted time of a team step, us",
}
_MARKS = {"gru": "o", "mlp": "s", "low-rank": "^"}
_COLOURS = {"fp32": svg.EXPERT, "int8": svg.STUDENT}


def sweep_html(report: SweepReport) -> str:
    """Return the page as text; the same report gives the same bytes.

    Raises
    ------
    MissingExtraError
        jinja2 or matplotlib is not installed.
    """
    best = [point for point in report.points if point.front]
    judge = "of the expert's gain kept" if report.plan.judge == "retention" else "agreement"
    headline = (
        f"Of {len(report.points)} distilled teams, {len(best)} are beaten by no other in "
        f"{report.plan.judge}, arithmetic, bytes and predicted time at once."
    )
    text = (
        f"Up and to the left is better: {judge}, against three costs, each summed over agents. "
        "Filled marks are teams that no other team beats in everything at once, hollow ones are "
        f"beaten. Time is predicted by the profile {report.plan.profile}, not measured."
    )
    sections = [
        Section("front", "The front", text, (front_plot(report),), (front_table(report),)),
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
    """Return the teams that no other beats."""
    return points_table("Teams on the front", report, [p for p in report.points if p.front])


def points_table(caption: str, report: SweepReport, points: Sequence[SweepPoint]) -> Table:
    """Return one row for each team."""
    rows = [
        (
            point.run,
            point.architecture,
            point.precision,
            ", ".join(map(str, point.widths)),
            "yes" if point.front else "",
            percent(point.quality),
            "\N{EN DASH}" if point.held_out_kl is None else number(point.held_out_kl, 4),
            *(f"{point.figures[name].value:,.4g}" for name in _AXES),
        )
        for point in points
    ]
    heads = f"run|network|weights|widths|front|{report.plan.judge}|held-out KL (fp32)"
    kinds = [f"{head} ({_kind(report, name)})" for name, head in _AXES.items()]
    return table(caption, "|".join([heads, *kinds]), rows)


def _kind(report: SweepReport, name: Quantity) -> str:
    return report.points[0].figures[name].kind if report.points else "predicted"


@svg.style()
def front_plot(report: SweepReport) -> str:
    """Draw quality against every cost."""
    figure, axes = svg.figure(7.2, 2.6, 1, len(_AXES))
    for ax, (name, title) in zip(axes, _AXES.items(), strict=True):
        line = sorted((p.figures[name].value, p.quality) for p in report.points if p.front)
        ax.plot([x for x, _ in line], [y for _, y in line], color=svg.LINE, lw=0.8, zorder=1)
        for point in report.points:
            colour = _COLOURS[point.precision]
            face = colour if point.front else "none"
            mark = _MARKS[point.architecture]
            at = ([point.figures[name].value], [point.quality])
            ax.scatter(*at, s=24, marker=mark, facecolor=face, edgecolor=colour, lw=0.9, zorder=2)
        ax.set_xscale("log")
        ax.set_xlabel(title)
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes[0].set_ylabel(report.plan.judge)
    shown = {(p.architecture, p.precision) for p in report.points}
    for kind, precision in sorted(shown):
        colour = _COLOURS[precision]
        axes[-1].scatter([], [], marker=_MARKS[kind], color=colour, label=f"{kind}, {precision}")
    figure.legend(loc="outside lower center", ncols=6, fontsize=8, labelcolor=svg.MUTED)
    return svg.inline(figure, "front", f"{report.plan.judge} against costs")
