"""The figure of retention against FLOPs: every point is one of the result files."""

from benchmarks.results.figure import ANCHORS, FIGURE, NAMES, draw, points
from tests.docs.pages import ROOT


def test_every_point_is_of_a_known_task_with_its_interval():
    teams = list(points())
    assert {team.task for team in teams} <= set(NAMES)
    assert len(teams) > 20
    for team in teams:
        assert team.low <= team.kept + 1e-9
        assert team.kept <= team.high + 1e-9
        assert team.reduction > 1


def test_what_lies_below_the_figure_is_the_task_that_its_caption_names():
    below = {team.task for team in points() if team.kept < 35}
    assert below == {"mpe/simple_speaker_listener_v4"}


def test_the_committed_figure_is_the_one_that_the_files_give():
    assert (ROOT / ANCHORS).is_file()
    assert (ROOT / FIGURE).read_bytes() == draw()
