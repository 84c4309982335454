"""The section "Blind spots" of a dataset's page and of a run's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kd_offline.reports import svg
from kd_offline.reports.formatting import number, percent, whole
from kd_offline.reports.page import Section
from kd_offline.reports.tables import Table, table
from kd_offline.schemas.blind_spots import AgentGrid, BlindSpots, ColumnRange, WeakRegion
from kd_offline.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 7.6
_DRAWN_AGENTS = 4
_WHY = {
    "few decisions": "decisions",
    "low value": "value",
    "high entropy": "entropy",
    "students differ": "student_kl",
}


def section(spots: BlindSpots) -> Section:
    """Return the section; where no agent's decisions are on a grid, it says why in one line."""
    if not spots.agents:
        return Section("blind-spots", "Blind spots", left_out(spots))
    drawn = spots.agents[:_DRAWN_AGENTS]
    text = (
        "Where the expert is weak, undecided or was hardly seen"
        f"{', and where the students differ from it' if spots.student_episodes else ''}. Each "
        "agent's decisions lie on a grid of two columns of its observations: those that explain "
        "most of the variance of values and entropy. Numbers are rows of the table. From "
        f"{whole(spots.decisions)} decisions in {whole(spots.episodes)} episodes"
    )
    if spots.student_episodes:
        text += f", students in {whole(spots.student_episodes)} held-out episodes"
    text += ". A weak region is a place to look at, not a fault: some states are bad for anyone."
    notes = [*spots.notes]
    if len(spots.agents) > len(drawn):
        notes.append(f"drawn are the first {len(drawn)} agents")
    if notes:
        text += f" Left out: {'; '.join(notes)}."
    figures = tuple(grid_plot(grid, spots.regions, f"blind-{k}") for k, grid in enumerate(drawn))
    return Section("blind-spots", "Blind spots", text, figures, (regions_table(spots),))


def left_out(spots: BlindSpots) -> str:
    """Return in one sentence what blind spots lack, and why; empty where they lack nothing."""
    return f"Left out: {'; '.join(spots.notes)}." if spots.notes else ""


def regions_table(spots: BlindSpots) -> Table:
    """Return the weakest regions, with decisions to look at."""
    dash = "\N{EN DASH}"
    rows = [
        (
            str(region.number),
            region.why,
            region.agent,
            region_in_words(region.columns),
            f"{whole(region.decisions)} ({percent(region.share)})",
            *(dash if x is None else number(x) for x in (region.value, region.entropy)),
            *([dash if region.student_kl is None else number(region.student_kl)]),
            ", ".join(f"{place.episode}:{place.step}" for place in region.places),
        )
        for region in spots.regions
    ]
    headings = "no.|what|agent|where|decisions|value|entropy, nats|KL of students, nats|"
    return table("Weakest regions", headings + "look at episode:step", rows)


def region_in_words(columns: Sequence[ColumnRange]) -> str:
    """Return a region as text, such as ``own[0] below -0.5, own[1] 0.2 to 0.4``."""
    return ", ".join(map(_range_in_words, columns))


def _range_in_words(part: ColumnRange) -> str:
    if part.low is None and part.high is None:
        return f"{part.column} anything"
    if part.low is None or part.high is None:
        side = "below" if part.low is None else "above"
        return f"{part.column} {side} {part.high if part.low is None else part.low:.3g}"
    return f"{part.column} {part.low:.3g} to {part.high:.3g}"


@svg.style()
def grid_plot(grid: AgentGrid, regions: Sequence[WeakRegion], name: str = "blind") -> str:
    """Draw one agent's grid: decisions, value, entropy and divergence; titles say what dark means.

    ``name`` is the prefix of the picture's ids.
    """
    panels: list[tuple[str, str, str, FloatArray]] = [
        ("decisions", "decisions, dark: many", svg.RANDOM, np.log1p(np.array(grid.decisions)))
    ]
    for quantity, title, colour, sign in (
        ("value", "value, dark: low", svg.CEILING, -1.0),
        ("entropy", "entropy, dark: high", svg.EXPERT, 1.0),
        ("student_kl", "KL of students, dark: high", svg.STUDENT, 1.0),
    ):
        means = getattr(grid, quantity)
        if means is not None:
            panels.append((quantity, title, colour, sign * np.array(means, np.float64)))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = svg.figure(_WIDTH, 0.3 + 2.5 * lines, lines, columns)
    of_agent = [region for region in regions if region.agent == grid.agent]
    for ax, (quantity, title, colour, shades) in zip(axes, panels, strict=False):
        _draw(ax, grid, shades, colour)
        _mark(ax, grid, [region for region in of_agent if _WHY[region.why] == quantity])
        ax.set_title(f"{grid.agent}: {title}", fontsize=8.5)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    label = f"Blind spots of {grid.agent}, by {' and '.join(grid.columns)}"
    return svg.inline(figure, name, label)


def _draw(ax: Axes, grid: AgentGrid, values: FloatArray, colour: str) -> None:
    """Fill the cells that hold decisions, from the palest to the darkest."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    known = np.isfinite(values) & (values != 0 if colour == svg.RANDOM else True)
    shown = values[known]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    for row, column in np.argwhere(known).tolist():
        share = (float(values[row, column]) - low) / (high - low) if high > low else 0.5
        shade = to_rgba(colour, round(0.08 + 0.92 * share, 2))
        cell = Rectangle((row, column), 1, 1, facecolor=shade, edgecolor="none")
        ax.add_artist(cell)  # add_patch would measure hundreds of cells for limits that are known
    rows, columns = values.shape
    ax.set_xlim(0, rows)
    ax.set_ylim(0, columns)
    _axis(ax.set_xticks, grid.edges[0], rows)
    ax.set_xlabel(grid.columns[0])
    if len(grid.columns) > 1:
        _axis(ax.set_yticks, grid.edges[1], columns)
        ax.set_ylabel(grid.columns[1])
    else:
        ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(True)


def _axis(set_ticks: object, edges: Sequence[float], cells: int) -> None:
    """Label at most five of the edges between cells."""
    step = max(1, len(edges) // 4)
    places = [k + 1 for k in range(0, min(len(edges), cells - 1), step)]
    set_ticks(places, [f"{edges[k - 1]:.2g}" for k in places], fontsize=7.5)  # type: ignore[operator]


def _mark(ax: Axes, grid: AgentGrid, regions: Sequence[WeakRegion]) -> None:
    """Outline regions and write their numbers into them."""
    from matplotlib.patches import Rectangle

    for region in regions:
        places = [
            0 if part.low is None else list(edges).index(part.low) + 1
            for part, edges in zip(region.columns, grid.edges, strict=True)
        ]
        row, column = places[0], places[1] if len(places) > 1 else 0
        ax.add_patch(Rectangle((row, column), 1, 1, facecolor=svg.PAPER, edgecolor=svg.INK, lw=0.9))
        ax.text(row + 0.5, column + 0.5, str(region.number), ha="center", va="center", fontsize=7.5)
