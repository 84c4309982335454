"""Pictures and table of the section "Blind spots"."""

import re

import pytest

from kd_offline.reports.blind_spots import grid_plot, region_in_words, regions_table, section
from kd_offline.schemas.audit import DecisionPlace
from kd_offline.schemas.blind_spots import AgentGrid, BlindSpots, ColumnRange, WeakRegion

GRID = AgentGrid(
    agent="agent <0>",
    columns=("own[0]", "own[1]"),
    explained=0.5,
    edges=((0.0, 1.0), (0.5,)),
    decisions=((30, 0), (1, 40), (25, 25)),
    value=((1.0, None), (2.0, -1.0), (0.0, 0.5)),
)
REGION = WeakRegion(
    number=7,
    why="low value",
    agent="agent <0>",
    columns=(
        ColumnRange(column="own[0]", low=0.0, high=1.0),
        ColumnRange(column="own[1]", low=0.5),
    ),
    decisions=40,
    share=0.33,
    value=-1.0,
    places=(DecisionPlace(episode=3, step=4, agent="agent <0>"),),
)
SPOTS = BlindSpots(episodes=5, decisions=121, agents=(GRID,), regions=(REGION,))


def test_regions_are_said_in_words():
    assert region_in_words(REGION.columns) == "own[0] 0 to 1, own[1] above 0.5"
    assert region_in_words([ColumnRange(column="a", high=-0.25)]) == "a below -0.25"
    assert region_in_words([ColumnRange(column="a")]) == "a anything"


def test_the_table_says_where_to_look():
    (row,) = regions_table(SPOTS).rows
    assert row[:4] == ("7", "low value", "agent <0>", "own[0] 0 to 1, own[1] above 0.5")
    assert row[-1] == "3:4"
    assert row[-2] == "\N{EN DASH}"  # no students


def test_a_picture_has_a_panel_for_each_quantity_and_the_numbers_of_the_table():
    pytest.importorskip("matplotlib")
    picture = grid_plot(GRID, SPOTS.regions)
    assert 'aria-label="Blind spots of agent &lt;0&gt;, by own[0] and own[1]"' in picture
    assert picture.count("agent &lt;0&gt;: ") == 2
    assert "value, dark: low" in picture
    assert "entropy" not in picture
    assert len(re.findall(r">7</text>", picture)) == 1
    assert picture == grid_plot(GRID, SPOTS.regions)
    assert not re.search(r'id="[^"]*[<& ]', picture)  # names of a file are no ids


def test_without_a_grid_the_section_says_why_in_one_line():
    notes = ("agent_0: too little data, 3 decisions in the sample",)
    made = section(BlindSpots(episodes=1, decisions=3, agents=(), regions=(), notes=notes))
    assert made.text == "Left out: agent_0: too little data, 3 decisions in the sample."
    assert not made.tables
    assert not made.figures


def test_what_was_left_out_is_said():
    pytest.importorskip("matplotlib")
    spots = SPOTS.model_copy(update={"notes": ("no values were recorded",), "student_episodes": 9})
    made = section(spots)
    assert made.id == "blind-spots"
    assert "students in 9 held-out episodes" in made.text
    assert made.text.endswith("Left out: no values were recorded.")
    assert "where the students differ" in made.text
