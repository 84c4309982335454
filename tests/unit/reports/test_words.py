import pytest

from kd_offline.reports import words
from kd_offline.schemas.evaluation import Estimate, RetentionScores
from kd_offline.testing.reports import evaluation_report, run_manifest

MINUS, SPACE = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (words.number(-1234.567), f"{MINUS}1,234.57"),
        (words.number(-0.5, 0), f"{MINUS}0"),
        (words.whole(1234567.4), "1,234,567"),
        (words.percent(0.98765), f"98.8{SPACE}%"),
        (words.percent(None), "\N{EN DASH}"),
        (words.interval(Estimate(mean=0.9, low=0.85, high=0.951), share=True), "85.0 to 95.1"),
        (words.interval(None), "\N{EN DASH}"),
        (words.duration(61.24), "61.2 s"),
        (words.duration(600), "10.0 min"),
    ],
)
def test_numbers_read_well(got, want):
    assert got == want


def test_the_headline_says_what_how_surely_and_on_what():
    text = words.headline(evaluation_report())
    for part in (
        "greedily",
        f"keep 87.8{SPACE}%",
        "95 % interval 86.9 to 88.7 %",
        "4,000 evaluation episodes",
        "5 distillation seeds",
        f"That is 96.8{SPACE}% of what the best known policy under the same mask gains",
        "4.0 times fewer FLOPs",
    ):
        assert part in text


def test_several_sides_are_named_in_the_headline_and_on_cards():
    report = evaluation_report(sides=True)
    assert report.greedy is not None
    text = words.headline(report)
    assert "Against the expert's other sides, " in text
    labels = [card.label for card in words.cards(report)]
    for name, side in report.greedy.sides.items():
        assert f"{name} keeps {words.percent(side.retention.normalised)}" in text
        assert f"kept by side {name}" in labels
    assert "other sides" not in words.headline(evaluation_report())


def test_an_undefined_retention_is_not_dressed_up():
    report = evaluation_report(ceiling=False)
    assert report.greedy is not None
    undefined = report.greedy.model_copy(update={"retention": RetentionScores(normalised=None)})
    text = words.headline(report.model_copy(update={"greedy": undefined}))
    assert "not reliably better than random play" in text
    assert "keep" not in text


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"distillation_seeds": (3,)}, "cover evaluation episodes only"),
        ({"distillation_seeds": (3, 4)}, "2 distillation seeds: the intervals are wide"),
        ({"episodes": 200}, "Only 200 episodes"),
        ({"ceiling_policy": None}, "No mask ceiling was played"),
        ({"opponents": {"good": "bundled"}}, "against the expert's other sides"),
        ({}, "FLOPs are not time"),
    ],
)
def test_caveats_follow_from_the_evidence(changes, note):
    report = evaluation_report()
    told = " ".join(words.caveats(report.model_copy(update=changes), run_manifest()))
    assert note in told
    if changes:
        assert note not in " ".join(words.caveats(report, run_manifest()))


def test_cards_leave_out_what_was_not_played():
    labels = [card.label for card in words.cards(evaluation_report(ceiling=False))]
    assert "of the mask ceiling" not in labels
    assert labels[:2] == ["kept, greedy", "kept, sampled"]
