import re

import numpy as np
import pytest

from kd_offline.reports.sweep import best_by, front_plot, points_table, sweep_html
from kd_offline.schemas.budget import BudgetFigure
from kd_offline.schemas.run import DatasetReference
from kd_offline.schemas.sweep import SweepPlan, SweepPoint, SweepReport

COSTS = ("macs", "flash_kb", "latency_us")


def point(trial, quality, macs, flash, *, front=False, run=None):
    values = {"macs": macs, "flash_kb": flash, "latency_us": macs / 40}
    return SweepPoint(
        trial=trial,
        run=run or f"runs/{trial:04d}",
        architecture="gru",
        precision="fp32",
        widths=(8, 8),
        quality=quality,
        figures={
            name: BudgetFigure(value=value, kind="modelled", source="a test")
            for name, value in values.items()
        },
        front=front,
    )


def report(points, **plan):
    return SweepReport(
        plan=SweepPlan(**({"judge": "agreement", "part": "heldout"} | plan)),
        dataset=DatasetReference(id="sha256:" + "0" * 64, name="tiny", path="d.zarr"),
        environment="test/random_v0",
        objectives=("agreement", *COSTS),
        points=tuple(points),
    )


POINTS = [
    point(0, 0.9, 12_345, 30, front=True),
    point(1, 0.8, 5_000, 50, front=True),
    point(2, 0.7, 900, 40),
    point(3, 0.6, 20_000, 5.25, front=True),
]


def test_the_line_of_a_cost_goes_through_what_is_best_by_that_cost_alone():
    assert [p.trial for p in best_by(POINTS, "macs")] == [2, 1, 0]
    assert [p.trial for p in best_by(POINTS, "flash_kb")] == [3, 0]


def test_equals_by_cost_and_worse_ones_are_not_on_the_line():
    same = [point(0, 0.5, 100, 1), point(1, 0.7, 100, 1), point(2, 0.7, 200, 1)]
    assert [p.trial for p in best_by(same, "macs")] == [1]


def test_every_cost_has_a_plot_of_its_own():
    page = sweep_html(report(POINTS))
    for cost in COSTS:
        assert page.count(f'id="front-{cost}-figure_1"') == 1


def test_tick_labels_are_plain_numbers_that_do_not_overprint():
    rng = np.random.default_rng(0)
    points = [
        point(k, rng.random(), int(10 ** rng.uniform(3, 5)), float(rng.uniform(5, 60)))
        for k in range(30)
    ]
    for cost in COSTS:
        drawn = front_plot(report(points), cost)
        assert "\N{MULTIPLICATION SIGN}" not in drawn
        spots = re.findall(r'text-anchor: middle[^>]*x="([\d.]+)"[^>]*>([^<]+)<', drawn)
        labels = [(float(x), text) for x, text in spots if re.fullmatch(r"[\d,.]+", text)]
        assert len(labels) >= 2
        places = sorted(x for x, _ in labels)
        assert min(np.diff(places)) > 20


def test_a_sweep_over_a_small_span_has_ticks_too():
    points = [point(k, 0.5 + k / 10, 1000 + 100 * k, 10 + k / 10) for k in range(3)]
    assert "1,100" in front_plot(report(points), "macs")


def test_runs_are_links_within_the_folder_and_numbers_have_one_format():
    page = sweep_html(report(POINTS))
    assert '<a href="runs/0003/run.json">runs/0003</a>' in page
    assert ">12,345<" in page
    assert ">5.25<" in page
    assert "e+0" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize("run", ["javascript:alert(1)", "runs/../../etc", "https://example.org"])
def test_nothing_else_becomes_a_link(run):
    strange = report([point(0, 0.5, 1000, 10, front=True, run=run)])
    assert points_table("All", strange, strange.points).links == {}
    assert f'href="{run}' not in sweep_html(strange)


def test_agreement_on_training_episodes_is_called_so():
    assert "nothing is held out" in sweep_html(report(POINTS, part="train"))
    assert "held-out episodes (part &#39;val&#39;)" in sweep_html(report(POINTS, part="val"))
    retention = sweep_html(report(POINTS, judge="retention", part="train"))
    assert "nothing is held out" not in retention
