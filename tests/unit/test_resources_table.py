"""The table of decision 010 is that of the measured figures, and every team of it fits."""

import json
from pathlib import Path

from benchmarks.resources import CASES, WAYS, table

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "docs" / "results" / "resources.json").read_text("utf-8"))["rows"]


def test_the_decision_shows_the_measured_figures():
    page = (ROOT / "docs" / "decisions" / "010-budgets.md").read_text("utf-8")
    assert table(ROWS) in page
    found = [(row["mask"], row["limit"], row["value"], row["way"]) for row in ROWS]
    assert found == [(c.mask, c.limit, c.value, way) for c in CASES for way in WAYS]


def test_every_team_is_within_the_budgets_of_its_agents():
    for row in ROWS:
        name, unit = {"macs": ("macs", 1), "flash_kb": ("bytes", 1024)}[row["limit"]]
        for team in row["teams"]:
            assert team[name] <= len(team["layers"]) * row["value"] * unit
