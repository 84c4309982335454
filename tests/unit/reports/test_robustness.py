import pytest

from kd_offline.reports.html import render
from kd_offline.reports.markdown import markdown
from kd_offline.reports.robustness import (
    error_table,
    failure_table,
    perturbation_table,
    remarks,
    robustness_section,
    tolerance_table,
)
from kd_offline.runs.folder import RunFolder
from kd_offline.schemas.evaluation import Estimate
from kd_offline.schemas.robustness import (
    AgentErrors,
    FailureRule,
    ModeScores,
    PerturbedPlay,
    PerturbedReturn,
    RobustnessReport,
    SharedErrors,
    SharedFailures,
    Tolerance,
)
from kd_offline.testing.reports import fabricate_run


def estimate(mean):
    return Estimate(mean=mean, low=mean - 0.1, high=mean + 0.1)


def play(name="none", strength=0.0, kept=1.0, unit="", expert=True):
    score = PerturbedReturn(returns=estimate(-9), change=estimate(-2), kept=estimate(kept))
    failures = SharedFailures(
        rates=(0.2, 0.4),
        expert=0.1,
        together=estimate(0.15),
        independent=0.08,
        without_expert=0.12,
        correlation=0.5,
    )
    return PerturbedPlay(
        perturbation=name,
        strength=strength,
        description="",
        unit=unit,
        expert=score if expert else None,
        students=score,
        beyond_expert=estimate(0.3) if expert and unit else None,
        failures=failures,
        declined={} if expert else {"expert": "it has no gradients"},
    )


def robustness(digests, *, status="complete"):
    """Return a report of an audit of the students of these digests, by seed."""
    plays = (play("noise", 0.1, 0.95, "deviations"), play("fgsm", 0.3, 0.5, "the box", False))
    errors = SharedErrors(
        part="heldout",
        episodes=40,
        decisions=900,
        rates=(0.1, 0.3),
        together=estimate(0.09),
        independent=0.03,
        correlation=0.4,
        alike=0.75,
        alike_by_chance=0.25,
        agents={"agent_0": AgentErrors(error=0.2, together=0.09, independent=0.03)},
        team=0.02,
        team_independent=0.01,
    )
    scores = ModeScores(
        failure=FailureRule(
            rule="return below a quantile of the expert's", quantile=0.1, threshold=-30.0
        ),
        unperturbed=play(),
        plays=plays,
        tolerances=(
            Tolerance(perturbation="noise", unit="deviations", tolerated=0.1, exceeded=0.3),
            Tolerance(perturbation="fgsm", unit="the box", tolerated=0.0, exceeded=0.3),
            Tolerance(perturbation="dead", unit="the agents", tolerated=1.0),
        ),
        expert_tolerances=(Tolerance(perturbation="noise", unit="deviations", tolerated=0.3),),
    )
    return RobustnessReport(
        status=status,
        run="run",
        environment="mpe/simple_spread_v3",
        method="kl",
        mask="limited",
        dataset="sha256:0",
        expert="bundled",
        episodes=500,
        evaluation_seed=0,
        distillation_seeds=tuple(map(int, digests)),
        students=digests,
        keep=0.9,
        random=estimate(-80),
        greedy=scores,
        errors=errors,
        notes=("something was left out",),
        intervals="95 %",
        command="kd-offline audit run",
        seconds=1.0,
    )


def plain(rows):
    """Return cells with ordinary spaces."""
    return [tuple(cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row) for row in rows]


DIGESTS = {"0": "sha256:0", "1": "sha256:1"}


def test_every_perturbation_has_a_row_for_expert_and_students():
    rows = plain(perturbation_table(robustness(DIGESTS).greedy).rows)
    assert rows[0] == ("noise 0.1", *("95.0 %", "85.0 to 105.0") * 2, "0.30", "0.20 to 0.40")
    assert rows[1][:3] == ("fgsm 0.3", "\N{EN DASH}", "\N{EN DASH}")


def test_tolerances_stand_beside_the_experts():
    rows = tolerance_table(robustness(DIGESTS).greedy, 0.9).rows
    assert rows[0] == ("noise", "deviations", "0.1", "0.3", "0.3")
    assert rows[2] == ("dead", "the agents", "1", "\N{EN DASH}", "\N{EN DASH}")


def test_shared_failures_and_errors_stand_beside_what_independence_would_give():
    failures = plain(failure_table(robustness(DIGESTS).greedy).rows)
    assert failures[0] == ("none", "30.0 %", "15.0 %", "5.0 to 25.0", "8.0 %", "12.0 %", "0.50")
    errors = error_table(robustness(DIGESTS))
    assert errors is not None
    assert plain(errors.rows)[0] == ("agent_0", "20.0 %", "9.0 %", "3.0 %")
    assert plain(errors.rows)[-1] == ("whole side at once", "2.0 %", "\N{EN DASH}", "1.0 %")
    ((caption,),) = plain([(errors.caption,)])
    assert "75.0 % take the same action (drawn uniformly: 25.0 %)" in caption


def test_the_section_says_what_a_failure_is_and_what_is_missing():
    section = robustness_section(robustness(DIGESTS, status="running"))
    ((text,),) = plain([(section.text,)])
    assert "30.00, the 10.0 % quantile of the unperturbed expert's returns" in text
    assert "The expert was not played where a dash stands: it has no gradients." in text
    assert "was interrupted" in text
    assert text.endswith("Something was left out.")


def test_shares_that_are_undefined_have_a_reason():
    report = robustness(DIGESTS)
    lost = report.greedy.unperturbed.students.model_copy(update={"kept": None})
    unperturbed = report.greedy.unperturbed.model_copy(update={"students": lost})
    greedy = report.greedy.model_copy(update={"unperturbed": unperturbed})
    said = remarks(report.model_copy(update={"greedy": greedy}))
    why = "Students were not better than random play beyond doubt, so what is kept is undefined."
    assert why in said
    assert why not in remarks(report)


@pytest.mark.parametrize("audited", [True, False])
def test_the_page_of_an_audited_run_has_the_section(tmp_path, audited):
    folder = fabricate_run(tmp_path / "run")
    if audited:
        results = folder.manifest().results
        folder.write_robustness(robustness({str(r.seed): r.digest for r in results}))
    assert ('id="robustness"' in render(RunFolder(folder.path))) == audited
    text = markdown(folder.path)
    assert ("## Robustness" in text) == ("## Play under perturbations" in text) == audited
