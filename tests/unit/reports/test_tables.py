import pytest

from kd_offline.reports import cost_tables, tables
from kd_offline.schemas.evaluation import Estimate, WinRates
from kd_offline.testing.reports import evaluation_report, run_manifest

REPORT, MANIFEST = evaluation_report(sides=True), run_manifest()
ALL = [
    tables.returns_table(REPORT),
    tables.retention_table(REPORT),
    tables.seeds_table(REPORT),
    cost_tables.cost_table(REPORT),
    cost_tables.network_table(REPORT),
    tables.agreement_table(REPORT),
    tables.cross_table(REPORT),
    tables.training_table(MANIFEST),
    tables.students_table(MANIFEST),
    tables.provenance_table(MANIFEST),
    tables.source_table(MANIFEST, REPORT),
]


@pytest.mark.parametrize("table", ALL, ids=lambda t: t.caption if t else "missing")
def test_every_row_fills_every_column(table):
    assert table is not None
    assert table.rows
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert all(isinstance(cell, str) and cell for row in table.rows for cell in row)


def test_sides_have_rows_of_their_own_only_where_there_are_several():
    assert any("adversary" in row[0] for row in tables.retention_table(REPORT).rows)
    names = [row[0] for row in tables.returns_table(evaluation_report()).rows]
    assert names[0] == "greedy, expert"
    assert len(names) == 8


def test_win_rates_appear_where_the_task_has_wins():
    assert tables.wins_table(REPORT) is None
    rate = Estimate(mean=0.5, low=0.4, high=0.6)
    assert REPORT.greedy is not None
    won = REPORT.greedy.model_copy(
        update={"win_rate": WinRates(expert=rate, student=rate, random=rate)}
    )
    table = tables.wins_table(REPORT.model_copy(update={"greedy": won}))
    assert table is not None
    assert [row[0] for row in table.rows] == ["greedy, expert", "greedy, student", "greedy, random"]


def test_parts_that_were_not_measured_have_no_table():
    bare = REPORT.model_copy(update={"cross_play": None, "greedy": None})
    assert tables.cross_table(bare) is None
    assert tables.agreement_table(bare) is None
