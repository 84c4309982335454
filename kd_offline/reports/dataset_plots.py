"""Plots of a dataset's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kd_offline.datasets.analysis.calibration import Calibration
from kd_offline.datasets.analysis.profile import Histogram
from kd_offline.reports import svg
from kd_offline.reports.plots import SCALE_HEIGHT, cells, colour_scale
from kd_offline.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 7.6
_COLOURS = (svg.EXPERT, svg.STUDENT, svg.CEILING, svg.RANDOM)
_DASHES = ("-", "--", ":")


@svg.style()
def returns_plot(by_split: Histogram, by_noise: Histogram | None) -> str:
    """Draw the share of episodes in each bin of return, one line for each part of the dataset."""
    histograms = [("by split", by_split), ("by level of noise", by_noise)]
    panels = [(title, histogram) for title, histogram in histograms if histogram is not None]
    figure, axes = svg.figure(_WIDTH, 2.4, 1, len(panels))
    for ax, (title, histogram) in zip(axes, panels, strict=True):
        _shares(ax, histogram)
        ax.set_title(title)
        ax.set_xlabel("return, sum over agents and steps")
        ax.legend(fontsize=8)
    axes[0].set_ylabel("share of its episodes, %")
    return svg.inline(figure, "data-returns", "Histogram of episode returns")


@svg.style()
def lengths_plot(lengths: Histogram) -> str:
    """Draw the number of episodes of each length."""
    figure, (ax,) = svg.figure(_WIDTH, 1.6)
    (counts,) = lengths.counts.values()
    ax.stairs(counts, lengths.edges, fill=True, color=svg.EXPERT)
    ax.set_xlabel("length, steps")
    ax.set_ylabel("episodes")
    ax.set_xlim(min(lengths.edges[0], 0), lengths.edges[-1] + 0.5)
    ax.locator_params(axis="both", integer=True, nbins=6)
    return svg.inline(figure, "lengths", "Histogram of episode lengths")


def _shares(ax: Axes, histogram: Histogram) -> None:
    for k, (name, counts) in enumerate(histogram.counts.items()):
        share = 100 * counts / max(1, counts.sum())
        style = _DASHES[k // len(_COLOURS) % len(_DASHES)]
        ax.stairs(share, histogram.edges, color=_colour(k), lw=1.4, ls=style, label=name)
    ax.set_ylim(bottom=0)


@svg.style()
def actions_plot(
    agents: Sequence[str],
    names: Sequence[Sequence[str]],
    frequency: FloatArray,
    moments: FloatArray,
) -> str:
    """Draw the share of each action over time, one panel for each agent; darker is more often."""
    columns = min(2, len(agents))
    rows = -(-len(agents) // columns)
    tallest = max(map(len, names))
    heights = [0.45 + 0.19 * tallest] * rows + [SCALE_HEIGHT]
    figure, axes = svg.figure(_WIDTH, 0.4 + sum(heights), rows + 1, columns, heights)
    for row, (ax, agent) in enumerate(zip(axes, agents, strict=False)):
        labels = names[row]
        shares = np.asarray(frequency[:, row, : len(labels)], np.float64)
        cells(ax, shares, svg.EXPERT, float(frequency.max()), float(moments[-1]))
        ax.set_title(agent, fontsize=8.5)
        ax.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize=7.5)
        ax.set_xlabel("step")
    _hide(axes, len(agents))
    axes[-columns].set_visible(True)
    colour_scale(axes[-columns], svg.EXPERT, float(frequency.max()))
    return svg.inline(figure, "data-actions", "Action frequency over time by agent")


@svg.style()
def entropy_plot(agents: Sequence[str], entropy: FloatArray, moments: FloatArray) -> str:
    """Draw the entropy of the expert's policy over time, one line for each agent."""
    figure, (ax,) = svg.figure(_WIDTH, 2.1)
    middles = (moments[1:] + moments[:-1]) / 2
    for row, agent in enumerate(agents):
        style = _DASHES[row // len(_COLOURS) % len(_DASHES)]
        ax.plot(middles, entropy[:, row], color=_colour(row), lw=1.5, ls=style, label=agent)
    ax.set_ylim(bottom=0)
    ax.set_xlim(0, moments[-1])
    ax.set_xlabel("step")
    ax.set_ylabel("entropy, nats")
    ax.grid(visible=True, axis="y")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return svg.inline(figure, "entropy", "Entropy of the expert's policy over time")


@svg.style()
def calibration_plot(agents: Sequence[str], calibration: Calibration) -> str:
    """Draw mean return-to-go against mean value, one panel for each agent.

    The area of a dot grows with the number of steps in its bin.
    """
    columns = min(3, len(agents))
    rows = -(-len(agents) // columns)
    figure, axes = svg.figure(_WIDTH, 0.3 + 2.3 * rows, rows, columns)
    largest_count = max(1, int(calibration.count.max()))
    for row, (ax, agent) in enumerate(zip(axes, agents, strict=False)):
        value, outcome, count = (
            calibration.value[row],
            calibration.outcome[row],
            calibration.count[row],
        )
        counted = count > 0
        if counted.any():
            diagonal = [min(value[counted].min(), outcome[counted].min())]
            diagonal += [max(value[counted].max(), outcome[counted].max())]
            ax.plot(diagonal, diagonal, color=svg.LINE, lw=1, zorder=0)
        sizes = 8 + 60 * count[counted] / largest_count
        ax.scatter(value[counted], outcome[counted], s=sizes, color=svg.EXPERT, lw=0)
        ax.set_title(agent, fontsize=8.5)
        ax.set_xlabel("critic's value")
        ax.locator_params(nbins=5)
    axes[0].set_ylabel("discounted return")
    _hide(axes, len(agents))
    return svg.inline(figure, "values", "Critic's values against discounted returns-to-go")


@svg.style()
def similarity_plot(agents: Sequence[str], cosines: FloatArray) -> str:
    """Draw the mean cosine of every pair of agents; hue shows the sign, darkness the size."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    n = len(agents)
    side = 0.9 + 0.42 * n
    figure, (ax,) = svg.figure(_WIDTH, side)
    for i, j in np.ndindex(n, n):
        cosine = cosines[i, j]
        if not np.isfinite(cosine):
            continue
        colour = svg.EXPERT if cosine >= 0 else svg.STUDENT
        shade = to_rgba(colour, round(min(1.0, abs(float(cosine))), 2))
        ax.add_patch(Rectangle((j, i), 1, 1, facecolor=shade, edgecolor="none"))
        ink = svg.PAPER if abs(cosine) > 0.6 else svg.INK
        text = f"{cosine:.2f}".replace("-", "\N{MINUS SIGN}")
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink, fontsize=8)
    ax.set_xlim(0, n)
    ax.set_ylim(n, 0)
    ax.set_aspect("equal")
    ax.set_xticks(np.arange(n) + 0.5, agents, fontsize=8, rotation=30 if n > 3 else 0)
    ax.set_yticks(np.arange(n) + 0.5, agents, fontsize=8)
    return svg.inline(figure, "similarity", "Cosine between the embeddings of agents")


def _colour(k: int) -> str:
    return _COLOURS[k % len(_COLOURS)]


def _hide(axes: Sequence[Axes], used: int) -> None:
    for ax in axes[used:]:
        ax.set_visible(False)
