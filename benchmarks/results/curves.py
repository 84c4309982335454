"""Learning curves of networks that were trained by reinforcement learning, kept short and drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Curve = list[tuple[int, float]]
"""Joint steps, and the share of battles won since the point before."""
POINTS = 60


def read(file: Path) -> Curve:
    """Return the curve of a training in at most 60 points, none where nothing is won."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row.get("won") is not None]
    parts = np.array_split(np.arange(len(rows)), min(POINTS, max(1, len(rows))))
    return [
        (
            int(rows[part[-1]]["frames"]),
            round(float(np.mean([rows[k]["won"] for k in part])), 4),
        )
        for part in parts
        if len(part)
    ]


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
