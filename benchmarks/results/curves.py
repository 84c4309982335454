"""Learning curves of networks trained by reinforcement learning: kept short, drawn, their slope."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd_offline.evaluation.intervals import Interval, mean_interval, t_quantile

Curve = list[tuple[int, float]]
"""Joint steps, and the share of battles won, or else the return of all agents, since the last."""
POINTS = 60
LAST = 0.25  # share of the training over which the slope is taken


def read(file: Path) -> Curve:
    """Return the curve of a training in at most 60 points, none where it was not kept."""
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    battles = any(row.get("won") is not None for row in rows)
    known = [
        (int(row["frames"]), float(row["won"] if battles else sum(row["returns"].values())))
        for row in rows
        if not battles or row["won"] is not None
    ]
    parts = np.array_split(np.arange(len(known)), min(POINTS, max(1, len(known))))
    return [
        (known[part[-1]][0], round(float(np.mean([known[k][1] for k in part])), 4))
        for part in parts
        if len(part)
    ]


def late(curve: Curve) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the millions of joint steps and the values of the last quarter."""
    frames, values = np.array(curve, dtype=np.float64).reshape(-1, 2).T
    last = frames >= (1 - LAST) * frames.max(initial=0.0)
    return frames[last] / 1e6, values[last]


def slopes(curves: Sequence[Curve]) -> Interval | None:
    """Return by how much play gets better per million joint steps, with its 95 % interval.

    Over several seeds it is the mean of their fitted lines, over one that of the line. None where
    curves were not kept, or are too short for a line.
    """
    parts = [late(curve) for curve in curves]
    if not parts or any(len(steps) < 3 for steps, _ in parts):
        return None
    if len(parts) > 1:
        return mean_interval(np.array([[np.polyfit(*part, 1)[0]] for part in parts]))
    steps, values = parts[0]
    (mean, _), covariance = np.polyfit(steps, values, 1, cov=True)
    half = t_quantile(len(steps) - 2) * float(np.sqrt(covariance[0, 0]))
    return Interval(float(mean), float(mean) - half, float(mean) + half)


def drawn(curves: Mapping[str, Curve]) -> str:
    """Return the share of won battles of sampled play over joint steps, as an SVG file."""
    from kd_offline.reports import svg

    with svg.style():
        figure, (ax,) = svg.figure(7.6, 3.2)
        for k, (name, curve) in enumerate(curves.items()):
            frames, won = np.array(curve).T
            ax.plot(frames / 1e6, 100 * won, lw=1.2, color=f"C{k % 10}", label=name)
        ax.set_xlabel("million joint steps")
        ax.set_ylabel("battles won, sampled play, %")
        ax.set_ylim(0, 100)
        ax.grid(visible=True, axis="y")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)
        return svg.standalone(svg.inline(figure, "learning", "Battles won over training"))


def banded(kinds: Mapping[str, Sequence[Curve]]) -> str:
    """Return the share of won battles of several seeds over joint steps, as an SVG file.

    Lines are means over the seeds of a kind, bands go from the lowest to the highest seed.
    """
    from kd_offline.reports import svg

    with svg.style():
        figure, (ax,) = svg.figure(7.6, 3.2)
        for k, (name, curves) in enumerate(kinds.items()):
            frames = np.linspace(*_common_range(curves), POINTS)
            won = 100 * np.stack([np.interp(frames, *np.array(curve).T) for curve in curves])
            ax.plot(frames / 1e3, won.mean(0), lw=1.2, color=f"C{k % 10}", label=name)
            ax.fill_between(
                *(frames / 1e3, won.min(0), won.max(0)), color=f"C{k % 10}", alpha=0.15, lw=0
            )
        ax.set_xlabel("thousand joint steps")
        ax.set_ylabel("won, play of the training, %")
        ax.set_ylim(0, 100)
        ax.grid(visible=True, axis="y")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)
        return svg.standalone(svg.inline(figure, "learning", "Episodes won over training"))


def _common_range(curves: Sequence[Curve]) -> tuple[int, int]:
    return max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
