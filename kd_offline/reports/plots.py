"""Plots of a report; they compute only what drawing needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kd_offline.reports import svg
from kd_offline.reports.formatting import cost_share, number, whole
from kd_offline.reports.tables import modes_of
from kd_offline.runs.folder import MetricRow
from kd_offline.schemas.evaluation import (
    ActionHeat,
    CrossPlay,
    Estimate,
    EvaluationReport,
    ModeScore,
    SideScore,
    TeamCost,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_F64 = npt.NDArray[np.float64]
_WIDTH = 7.6
_PLACES = ("seed", "epoch", "step", "split", "seconds", "learning_rate", "lr")
_TERMS = {"kl": "KL divergence", "ce": "cross entropy", "ppo": "policy gradient (PPO)"}
_POINTS = 200
_COLUMNS = 50
SCALE_HEIGHT = 0.42
"""Height of a colour scale with its axis, in inches."""
_LEGEND_ALPHA = 0.55


@svg.style()
def returns_plot(report: EvaluationReport) -> str:
    """Draw the mean return of each policy as bars that start at random play."""
    panels: list[tuple[str, ModeScore | SideScore, ModeScore | None]] = []
    for mode, score in modes_of(report).items():
        if len(score.sides) == 1:
            panels.append((mode, score, score))
        else:
            panels += [(f"{mode}, {side}", part, None) for side, part in score.sides.items()]
    rows = -(-len(panels) // 2)
    columns = min(len(panels), 2)
    figure, axes = svg.figure(_WIDTH, 0.35 + 1.5 * rows, rows, columns)
    for ax, (title, part, seeds) in zip(axes, panels, strict=False):
        _bars(ax, part, [] if seeds is None else [s.mean for s in seeds.seeds])
        ax.set_title(title)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.supxlabel(
        "mean return, sum over agents; bars begin at random play", fontsize=9, color=svg.MUTED
    )
    return svg.inline(figure, "returns", "Mean return of expert, ceiling, students, random play")


def _bars(ax: Axes, score: ModeScore | SideScore, seeds: Sequence[float]) -> None:
    bars = [("expert", score.expert, svg.EXPERT), ("students", score.student, svg.STUDENT)]
    if score.ceiling is not None:
        bars.insert(1, ("mask ceiling", score.ceiling, svg.CEILING))
    bars.append(("random", score.random, svg.RANDOM))
    base = score.random.mean
    for y, (_, estimate, colour) in enumerate(bars):
        ax.barh(y, estimate.mean - base, left=base, height=0.62, color=colour)
        ax.plot([estimate.low, estimate.high], [y, y], color=svg.INK, lw=1.4)
    student = [name for name, _, _ in bars].index("students")
    ax.scatter(seeds, [student] * len(seeds), s=9, color=svg.PAPER, ec=svg.INK, lw=0.6, zorder=3)
    span = max(abs(e.high - base) for _, e, _ in bars) or 1.0
    for y, (_, estimate, _) in enumerate(bars):
        bar_end = max(estimate.high, base)
        ax.text(bar_end + 0.025 * span, y, number(estimate.mean), va="center", fontsize=8.5)
    ax.axvline(base, color=svg.RANDOM, lw=0.8)
    ends = [e.low for _, e, _ in bars] + [e.high for _, e, _ in bars]
    ax.set_xlim(min(ends) - 0.03 * span, max(ends) + 0.24 * span)
    ax.set_yticks(range(len(bars)), [name for name, _, _ in bars], color=svg.INK)
    ax.invert_yaxis()
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)


@svg.style()
def cost_plot(report: EvaluationReport) -> str:
    """Draw the FLOPs of an episode, expert against students, one segment for each agent."""
    teams = [
        ("expert", report.cost.expert, svg.EXPERT),
        ("students", report.cost.student, svg.STUDENT),
    ]
    figure, (ax,) = svg.figure(_WIDTH, 1.35)
    largest = max(team.episode.flops for _, team, _ in teams)
    for y, (_, team, colour) in enumerate(teams):
        total = 0.0
        for share in _shares(team):
            ax.barh(y, share, left=total, height=0.58, color=colour, ec=svg.PAPER, lw=1.2)
            total += share
        reduction = report.cost.expert.episode.flops / max(total, 1.0)
        ratio = "" if y == 0 else f" ({cost_share(reduction)})"
        ax.text(total + 0.012 * largest, y, f"{whole(total)}{ratio}", va="center", fontsize=9)
    ax.set_yticks([0, 1], [name for name, _, _ in teams], color=svg.INK)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.22 * largest)
    ax.set_xlabel("FLOPs of an episode of mean length; one segment an agent")
    ax.xaxis.set_major_formatter(lambda value, _: _short_count(value))
    ax.spines["left"].set_visible(False)
    return svg.inline(figure, "cost", "FLOPs an episode, expert against students")


def _shares(team: TeamCost) -> list[float]:
    """Return the FLOPs of an episode for each agent, in proportion to one decision of each."""
    return [team.episode.flops * agent.flops / max(team.flops, 1) for agent in team.agents]


def _short_count(value: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g}"


@svg.style()
def heat_plot(heats: Sequence[ActionHeat]) -> str:
    """Draw the share of each action at each step, expert beside student, one row for each agent."""
    actions = max(len(heat.actions) for heat in heats)
    map_height = 0.34 + 0.165 * actions
    heights = [map_height] * len(heats) + [SCALE_HEIGHT]
    figure, axes = svg.figure(_WIDTH, 0.45 + sum(heights), len(heights), 2, heights)
    peak = max(max(map(max, h.expert)) for h in heats)
    peak = max(peak, *(max(map(max, h.student)) for h in heats))
    for row, heat in enumerate(heats):
        sides = (("expert", heat.expert, svg.EXPERT), ("student", heat.student, svg.STUDENT))
        for column, (name, frequency, colour) in enumerate(sides):
            ax = axes[2 * row + column]
            cells(ax, np.array(frequency), colour, peak)
            ax.set_title(f"{heat.agent}, {name}", fontsize=8.5)
            labels = heat.actions if column == 0 else [""] * len(heat.actions)
            ax.set_yticks(np.arange(len(heat.actions)) + 0.5, labels, fontsize=7.5)
            if row == len(heats) - 1:
                ax.set_xlabel("step")
            else:
                ax.set_xticks([])
    for ax, colour in zip(axes[-2:], (svg.EXPERT, svg.STUDENT), strict=True):
        colour_scale(ax, colour, peak)
    return svg.inline(figure, "heat", "Action frequency over time, expert and students")


def colour_scale(ax: Axes, colour: str, peak: float) -> None:
    """Fill ``ax`` with the shades of :func:`cells`, from 0 to ``peak``."""
    cells(ax, np.linspace(0, peak, _COLUMNS)[:, None], colour, peak, peak or 1.0)
    ax.set_yticks([])
    ax.set_xlabel("share of the action at a step, %")
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    ax.locator_params(axis="x", nbins=5)


def cells(ax: Axes, frequency: _F64, colour: str, peak: float, span: float | None = None) -> None:
    """Fill ``ax`` with a heat map of ``frequency`` [columns, rows] over steps 0 to ``span``.

    Without ``span`` every column is one step.
    """
    from matplotlib.collections import PathCollection
    from matplotlib.colors import to_rgba
    from matplotlib.path import Path

    peak = peak or 1.0  # where nothing ever happened
    binned, width = _binned(frequency)
    width *= 1.0 if span is None else span / len(frequency)
    # Two decimals, and one outline for all cells of a colour, keep the file small; the eye sees no
    # more.
    shares = np.where(binned >= 0.005 * peak, np.round(binned / peak, 2), 0.0)
    outlines = []
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], float)
    levels = [share for share in np.unique(shares) if share]
    for share in levels:
        squares = np.argwhere(shares == share)[:, None] + corners
        codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * len(squares)
        outlines.append(Path(squares.reshape(-1, 2) * (width, 1.0), codes))
    colours = [to_rgba(colour, float(share)) for share in levels]
    ax.add_collection(
        PathCollection(outlines, facecolor=colours, edgecolor="none", antialiased=False)
    )
    ax.set_xlim(0, len(frequency) if span is None else span)
    ax.set_ylim(binned.shape[1], 0)
    for spine in ax.spines.values():
        spine.set_visible(True)


def _binned(frequency: _F64) -> tuple[_F64, float]:
    """Return at most 50 columns, averaged over neighbouring steps, and the steps of a column."""
    steps = len(frequency)
    if steps <= _COLUMNS:
        return frequency, 1.0
    parts = np.array_split(frequency, _COLUMNS)
    return np.stack([part.mean(axis=0) for part in parts]), steps / _COLUMNS


@svg.style()
def cross_plot(cross_play: CrossPlay) -> str:
    """Draw the retention of mixed teams, two marks for each agent."""
    figure, (ax,) = svg.figure(_WIDTH, 0.75 + 0.36 * len(cross_play.agents))
    rows: tuple[tuple[str, Sequence[Estimate | None], str, float], ...] = (
        ("its student among experts", cross_play.student_among_experts, svg.STUDENT, -0.13),
        ("its expert among students", cross_play.expert_among_students, svg.EXPERT, 0.13),
    )
    ax.axvline(100, color=svg.LINE, lw=1)
    for label, estimates, colour, shift in rows:
        points = [(y + shift, e) for y, e in enumerate(estimates) if e is not None]
        for y, e in points:
            ax.plot([100 * e.low, 100 * e.high], [y, y], color=colour, lw=2)
        ax.scatter(
            [100 * e.mean for _, e in points],
            [y for y, _ in points],
            s=26,
            color=colour,
            label=label,
        )
    ax.set_yticks(range(len(cross_play.agents)), cross_play.agents, color=svg.INK)
    ax.set_ylim(len(cross_play.agents) - 0.5, -0.5)
    ax.set_xlabel("kept of the expert's gain over random play, %")
    ax.spines["left"].set_visible(False)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)
    return svg.inline(figure, "cross", "Teams mixed from experts and students")


@svg.style()
def curves_plot(rows: Sequence[MetricRow], kl: Mapping[str, Any] | None = None) -> str | None:
    """Draw every loss term over training, one panel for each term; None without metrics.

    ``kl`` holds the settings of the KL term. The training KL is at its temperature and may be
    scaled by its square; the held-out KL is at temperature 1. Where these differ, each has a panel
    of its own.
    """
    panels = curve_panels(rows, kl or {})
    if not panels:
        return None
    columns = min(3, len(panels))
    panel_lines = -(-len(panels) // columns)
    figure, axes = svg.figure(_WIDTH, 0.5 + 1.55 * panel_lines, panel_lines, columns)
    x_name = "epoch" if any("epoch" in row for row in rows) else "step"
    for ax, (title, name, panel_rows) in zip(axes, panels, strict=False):
        _curves(ax, panel_rows, name, x_name)
        ax.set_title(title)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(panels) - columns) : len(panels)]:
        ax.set_xlabel(x_name)
    handles: dict[str, Any] = {}
    for ax in axes:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles, loc="outside upper right", ncols=len(handles), fontsize=8.5
    )
    return svg.inline(figure, "curves", "Learning curves by loss term")


def curve_panels(
    rows: Sequence[MetricRow], kl: Mapping[str, Any]
) -> list[tuple[str, str, Sequence[MetricRow]]]:
    """Return title, name and rows of every panel; curves of a panel are the same quantity."""
    panels: list[tuple[str, str, Sequence[MetricRow]]] = []
    for name in curve_names(rows):
        title = _TERMS.get(name, name.replace("_", " "))
        tau = kl.get("temperature", 1.0)
        if name != "kl" or tau == 1.0:
            panels.append((title, name, rows))
            continue
        scale = f", \N{MULTIPLICATION SIGN}{tau**2:g}" if kl.get("scale_by_temperature") else ""
        trained = [row for row in rows if row.get("split", "train") == "train"]
        held_out = [row for row in rows if row.get("split", "train") != "train"]
        for panel_rows, panel_title in (
            (trained, f"KL at temperature {tau:g}{scale}"),
            (held_out, title),
        ):
            if any(name in row for row in panel_rows):
                panels.append((panel_title, name, panel_rows))
    return panels


def curve_names(rows: Sequence[MetricRow]) -> list[str]:
    """Return the names of the curves in ``rows``, in the order of their appearance."""
    names: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            if key not in _PLACES and isinstance(value, float | int):
                names.setdefault(key)
    return list(names)


def _curves(ax: Axes, rows: Sequence[MetricRow], name: str, x_name: str) -> None:
    splits: dict[str, dict[Any, list[tuple[float, float]]]] = {}
    for index, row in enumerate(rows):
        if isinstance(row.get(name), float | int):
            seeds = splits.setdefault(str(row.get("split", "train")), {})
            seeds.setdefault(row.get("seed"), []).append((row.get(x_name, index), row[name]))
    values = [v for seeds in splits.values() for points in seeds.values() for _, v in points]
    for split, seeds in splits.items():
        colour = svg.STUDENT if split != "train" else svg.MUTED
        label = {"train": "training", "heldout": "held-out"}.get(split, f"held-out ({split})")
        for i, points in enumerate(seeds.values()):
            step = -(-len(points) // _POINTS)
            x, y = np.array(points)[::step].T
            ax.plot(x, y, color=colour, lw=1, alpha=_LEGEND_ALPHA, label="" if i else label)
    if min(values) > 0 and max(values) > 8 * min(values):
        ax.set_yscale("log")
    ax.grid(visible=True, axis="y")
    ax.tick_params(labelsize=8)
