"""Draw what teams keep against how many fewer FLOPs they need, from the result files.

python -m benchmarks.results.figure
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.results.combat import COMBAT
from benchmarks.results.plan import DEVELOPMENT_SEED, PARTICLE
from kd_offline.files import write_file

ANCHORS = Path("docs/anchors.json")
FIGURE = Path("docs/results/retention.svg")
STYLE = {
    "svg.hashsalt": "kd-offline",
    "svg.fonttype": "path",  # the same letters on every machine
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
NAMES = {
    "mpe/simple_spread_v3": ("simple_spread", "C0", "o"),
    "mpe/simple_speaker_listener_v4": ("speaker_listener", "C1", "s"),
    "mpe/simple_adversary_v3": ("simple_adversary", "C2", "^"),
    "smax/3m": ("SMAX 3m", "C3", "D"),
    "smax/8m": ("SMAX 8m", "C4", "v"),
    "smax/5m_vs_6m": ("SMAX 5m_vs_6m", "C5", "P"),
    "smax/3s5z": ("SMAX 3s5z", "C6", "X"),
}


@dataclass(frozen=True, slots=True)
class Point:
    """What one team keeps of its expert, in per cent, with its interval, and its reduction."""

    task: str
    masked: bool
    reduction: float  # expert's FLOPs divided by the team's, for a step of all agents
    kept: float
    low: float
    high: float


def points() -> Iterator[Point]:
    """Yield KD-MARL teams of the result pages and of the anchors, distilled from full view.

    Left out are ablations, teams in two steps, whose expert is another one, and sides of tasks
    against opponents, each of which keeps a share of its own.
    """
    for study in (PARTICLE, COMBAT):
        for path in sorted(study.cells.glob("*.kd-marl.*.json")):
            if ".minus." in path.name or f".on-{DEVELOPMENT_SEED}." in path.name:
                continue  # differences, and what was measured again on the final seed
            cell = json.loads(path.read_text("utf-8"))
            team = Point(
                cell["environment"],
                cell["mask"] != "full",
                cell["cost"]["flops_reduction"],
                *_kept(cell["greedy"]),
            )
            plain = not cell["label"] and cell["expert"].split()[0] == "bundled"
            if plain and len(cell["greedy"]["sides"]) == 1 and team.reduction > 1:
                yield team
    for row in json.loads(ANCHORS.read_text("utf-8")).values():
        if row["task"] != "mpe/simple_adversary_v3":
            kept = (100 * share for share in row["retention"])
            yield Point(row["task"], row["mask"] != "full", row["factor"], *kept)


def _kept(greedy: dict[str, Any]) -> tuple[float, float, float]:
    """Return the share of wins where there are some, else of the way from random play."""
    share = "ratio" if greedy["win_rate"] else "normalised"
    value = greedy["retention"][share]
    interval = (greedy["retention_intervals"] or {}).get(share) or {"low": value, "high": value}
    return 100 * value, 100 * interval["low"], 100 * interval["high"]


def draw() -> bytes:
    """Return the figure as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        figure.patch.set_facecolor("white")  # a forge shows it on dark pages too
        ax = figure.subplots()
        labelled = set()
        for team in points():
            name, colour, marker = NAMES[team.task]
            label = None if name in labelled else name
            labelled.add(name)
            ax.errorbar(
                team.reduction,
                team.kept,
                yerr=[[max(0.0, team.kept - team.low)], [max(0.0, team.high - team.kept)]],
                fmt=marker,
                color=colour,
                markerfacecolor="white" if team.masked else colour,
                markersize=5,
                elinewidth=0.8,
                label=label,
            )
        ax.set_xscale("log")
        ax.set_xticks([5, 10, 20, 40, 70], ["5x", "10x", "20x", "40x", "70x"])
        ax.minorticks_off()
        ax.axhline(100, color="0.8", linewidth=0.8, zorder=0)
        ax.set_ylim(35, 104)
        ax.set_xlabel("fewer FLOPs than the expert, for one step of the whole team")
        ax.set_ylabel("kept of the expert's play, %")
        ax.legend(loc="lower left", bbox_to_anchor=(1.0, 0.0), frameon=False)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=FIGURE)
    write_file(parser.parse_args().output, draw())


if __name__ == "__main__":
    main()
