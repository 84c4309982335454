import pytest

from kd_offline.reports import formatting
from kd_offline.schemas.evaluation import Estimate, RetentionScores
from kd_offline.testing.reports import evaluation_report, run_manifest

MINUS, SPACE = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (formatting.number(-1234.567), f"{MINUS}1,234.57"),
        (formatting.number(-0.5, 0), f"{MINUS}0"),
        (formatting.whole(1234567.4), "1,234,567"),
        (formatting.percent(0.98765), f"98.8{SPACE}%"),
        (formatting.percent(None), "\N{EN DASH}"),
        (formatting.interval(Estimate(mean=0.9, low=0.85, high=0.951), share=True), "85.0 to 95.1"),
        (formatting.interval(None), "\N{EN DASH}"),
        (formatting.duration(61.24), "61.2 s"),
        (formatting.duration(600), "10.0 min"),
    ],
)
def test_numbers_read_well(got, want):
    assert got == want


def test_the_headline_says_what_how_surely_and_on_what():
    text = formatting.headline(evaluation_report())
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
    text = formatting.headline(report)
    assert "Against the expert's other sides, " in text
    labels = [card.label for card in formatting.cards(report)]
    for name, side in report.greedy.sides.items():
        assert f"{name} keeps {formatting.percent(side.retention.normalised)}" in text
        assert f"kept by side {name}" in labels
    assert "other sides" not in formatting.headline(evaluation_report())


def test_an_undefined_retention_is_not_dressed_up():
    report = evaluation_report(ceiling=False)
    assert report.greedy is not None
    undefined = report.greedy.model_copy(update={"retention": RetentionScores(normalised=None)})
    text = formatting.headline(report.model_copy(update={"greedy": undefined}))
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
    told = " ".join(formatting.caveats(report.model_copy(update=changes), run_manifest()))
    assert note in told
    if changes:
        assert note not in " ".join(formatting.caveats(report, run_manifest()))


def test_cards_leave_out_what_was_not_played():
    labels = [card.label for card in formatting.cards(evaluation_report(ceiling=False))]
    assert "of the mask ceiling" not in labels
    assert labels[:2] == ["kept, greedy", "kept, sampled"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345.6, "12,346"),
        (1000, "1,000"),
        (999.96, "1,000"),
        (608.52, "608.5"),
        (531.0, "531"),
        (5.345, "5.345"),
        (0.012348, "0.01235"),
        (0.00001, "0.00001"),
        (-2.5, f"{MINUS}2.5"),
    ],
)
def test_figures_of_any_size_have_no_exponent(value, text):
    assert formatting.significant(value) == text


def test_the_experts_own_return_is_on_the_first_screen():
    report = evaluation_report()
    card = next(card for card in formatting.cards(report) if "expert's own return" in card.label)
    assert card.value == formatting.number(report.greedy.expert.mean)
    assert formatting.number(report.greedy.student.mean) in card.detail


def test_a_shared_network_is_counted_both_ways_and_each_says_which():
    report = evaluation_report()
    assert "count once" not in formatting.headline(report)
    cost = report.cost.model_copy(update={"parameters_reduction_once": 7.6})
    text = formatting.headline(report.model_copy(update={"cost": cost}))
    assert "3.9 times fewer parameters (7.6 times where the expert's shared networks count" in text


def test_where_nobody_decides_there_is_no_card_of_agreement():
    report = evaluation_report().model_copy(update={"agreement": None, "joint_agreement": None})
    assert not [card for card in formatting.cards(report) if "same action" in card.label]


def test_nothing_held_out_is_a_caveat():
    manifest = run_manifest()
    told = " ".join(formatting.caveats(evaluation_report(), manifest))
    assert "held out" not in told
    none = manifest.model_copy(update={"judged_by": None})
    assert "Nothing was held out" in " ".join(formatting.caveats(evaluation_report(), none))
    one = manifest.judged_by.model_copy(update={"episodes": 1})
    few = manifest.model_copy(update={"judged_by": one})
    assert "1 held-out episode" in " ".join(formatting.caveats(evaluation_report(), few))


@pytest.mark.parametrize(
    ("reduction", "said", "part"),
    [
        (22.71, "22.7 times fewer", "1/22.7"),
        (1.0, "1.0 times fewer", "1/1.0"),
        (0.4, "2.5 times more", "2.5 times more"),
        (0.001, "1000.0 times more", "1000.0 times more"),
        (0.0, "more", "more"),
    ],
)
def test_students_that_cost_more_than_their_expert_are_said_to(reduction, said, part):
    assert (formatting.fewer(reduction), formatting.cost_share(reduction)) == (said, part)
    report = evaluation_report()
    cost = report.cost.model_copy(update={"flops_reduction": reduction})
    changed = report.model_copy(update={"cost": cost})
    assert f"They need {said} FLOPs a team step" in formatting.headline(changed)
    (card,) = [card for card in formatting.cards(changed) if "FLOPs" in card.label]
    assert card.label == f"{said.split()[-1]} FLOPs"
