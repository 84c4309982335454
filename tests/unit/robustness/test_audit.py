import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.errors import CheckpointError, UnknownNameError, UsageError, UserCodeError
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.registry import Origin, Registry
from kd_offline.reports.robustness import comparison_table
from kd_offline.robustness import audit as module
from kd_offline.robustness.audit import audit, plays_of
from kd_offline.robustness.perturbations import PERTURBATIONS
from kd_offline.robustness.perturbations.base import Perturbation
from kd_offline.runs.folder import RunFolder
from kd_offline.schemas.robustness import RobustnessReport
from kd_offline.students.policy import StudentPolicy
from kd_offline.testing.factories import tiny_dataset
from tests.unit.evaluation.test_evaluation_setup import expert, make_run

EPISODES = 12
PLAYS = ["noise:0.3", "noise:1", "dead", "fgsm:0.1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("audit")
    teacher = expert(place / "expert")
    run = make_run(place / "run", teacher, motion=True)
    report = audit(run.path, episodes=EPISODES, perturbations=PLAYS, expert=teacher, quantile=0.5)
    return place, report


@pytest.fixture
def copy(place, tmp_path):
    shutil.copytree(place[0] / "run", tmp_path / "run")
    return tmp_path / "run", place[0] / "expert"


def test_unperturbed_returns_are_those_of_an_evaluation(place):
    folder, report = place
    run = folder / "evaluated"
    shutil.copytree(folder / "run", run)
    evaluated = evaluate(run, episodes=EPISODES, modes=["greedy"], expert=folder / "expert")
    assert report.unperturbed.expert.returns == evaluated.greedy.expert
    assert report.unperturbed.students.returns == evaluated.greedy.student
    assert report.random == evaluated.greedy.random


def test_every_perturbation_has_a_row_with_paired_changes(place):
    _, report = place
    rows = [(play.perturbation, play.strength) for play in report.plays]
    assert rows == [("noise", 0.3), ("noise", 1.0), ("dead", 1.0), ("fgsm", 0.1)]
    for play in report.plays:
        change = play.students.returns.mean - report.unperturbed.students.returns.mean
        assert play.students.change.mean == pytest.approx(change)
        beyond = play.students.change.mean - play.expert.change.mean
        assert play.beyond_expert.mean == pytest.approx(beyond)
        assert len(play.failures.rates) == 2
    assert report.failure.quantile == 0.5
    assert report.unperturbed.failures.expert == 0.5


def test_the_report_is_sealed_in_the_run_and_damage_is_noticed(place, copy):
    run, _ = copy
    assert RunFolder(run).robustness() == place[1]
    file = run / "robustness.json"
    file.write_bytes(file.read_bytes().replace(b'"dead"', b'"deaf"'))
    with pytest.raises(CheckpointError, match="does not match its own digest"):
        RunFolder(run).robustness()


def test_a_report_of_other_students_is_refused(place, copy):
    run, _ = copy
    other = place[1].model_copy(update={"students": {"3": "sha256:" + "0" * 64}})
    RunFolder(run).write_robustness(other)
    with pytest.raises(CheckpointError, match="of other students"):
        RunFolder(run).robustness()


def test_an_interrupted_audit_continues_to_the_same_report(place, copy, monkeypatch):
    run, teacher = copy
    asked = {"episodes": EPISODES, "perturbations": PLAYS, "expert": teacher, "quantile": 0.5}
    play, calls = module.Audit._play, []

    def interrupted(self, teams, tick, name="none", strength=0.0):
        calls.append(name)
        if name == "dead":
            raise KeyboardInterrupt
        return play(self, teams, tick, name, strength)

    monkeypatch.setattr(module.Audit, "_play", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit(run, **asked)
    half = RunFolder(run).robustness()
    assert half.status == "running"
    assert [p.strength for p in half.plays] == [0.3, 1.0]
    monkeypatch.setattr(module.Audit, "_play", play)
    whole = audit(run, resume=True, **asked)
    same = {"seconds", "command"}
    assert whole.model_dump(exclude=same) == place[1].model_dump(exclude=same)
    with pytest.raises(UsageError, match="begun with another episodes"):
        audit(run, resume=True, **{**asked, "episodes": EPISODES + 1})


def test_batches_change_nothing(place, copy):
    run, teacher = copy
    few = audit(run, episodes=EPISODES, perturbations=["noise:1", "dead"], expert=teacher, batch=5)
    whole = {p.perturbation: p for p in place[1].plays if p.strength == 1}
    for play in few.plays:
        mean = whole[play.perturbation].students.returns.mean
        assert play.students.returns.mean == pytest.approx(mean, rel=1e-6)


def test_seeds_are_compared_with_those_of_another_run(place, copy, tmp_path):
    run, teacher = copy
    other = make_run(tmp_path / "other", teacher, motion=False)
    asked = {"episodes": EPISODES, "perturbations": ["dead"], "expert": teacher, "quantile": 0.5}
    same = audit(run, against=run, **asked).comparison
    assert same is not None
    assert same.failures == place[1].unperturbed.failures
    assert (same.returns_change.mean, same.together_change.mean) == (0, 0)
    report = audit(run, against=other.path, **asked)
    beside = report.comparison
    assert beside is not None
    assert beside.run == "other"
    gap = report.unperturbed.students.returns.mean - beside.returns.mean
    assert beside.returns_change.mean == pytest.approx(gap)
    together = report.unperturbed.failures.together.mean - beside.failures.together.mean
    assert beside.together_change.mean == pytest.approx(together)
    assert RobustnessReport.model_validate_json(report.model_dump_json()) == report
    rows = {row[0]: row for row in comparison_table(report).rows}
    assert set(rows) == {"mean return", "every seed failed"}


def test_seeds_that_the_run_lacks_and_unknown_perturbations_are_refused(copy):
    run, teacher = copy
    with pytest.raises(UnknownNameError, match="unknown seed of the run '9'"):
        audit(run, episodes=4, seeds=[9], expert=teacher)
    with pytest.raises(UnknownNameError, match="unknown perturbation 'nois'"):
        audit(run, episodes=4, perturbations=["nois"], expert=teacher)
    with pytest.raises(UsageError, match="give 2 episodes or more"):
        audit(run, episodes=1, expert=teacher)
    with pytest.raises(UsageError, match="one seed, 3, is to be compared with another run"):
        audit(run, episodes=4, seeds=[3], against=run, expert=teacher)
    with pytest.raises(UsageError, match="keep is 1: give a share above 0 and below 1"):
        audit(run, episodes=4, keep=1.0, expert=teacher)


def test_a_strength_that_the_task_cannot_have_is_refused_before_anything_is_played(
    copy, monkeypatch
):
    run, teacher = copy
    monkeypatch.setattr(module.Audit, "_play", None)
    with pytest.raises(UsageError, match="4 agents of a side cannot fail"):
        audit(run, episodes=4, perturbations=["noise", "dead:4"], expert=teacher)


@pytest.mark.parametrize("lies_there", [False, True])
def test_without_the_dataset_the_report_says_why_recorded_errors_are_missing(
    copy, tmp_path, monkeypatch, lies_there
):
    run, teacher = copy
    monkeypatch.chdir(tmp_path)
    if lies_there:
        tiny_dataset("dataset.zarr", 12)
    report = audit(run, episodes=4, perturbations=["dead"], expert=teacher)
    why = "another dataset lies" if lies_there else "the dataset is neither where the run states it"
    assert report.errors is None
    (note,) = report.notes
    assert note.startswith(f"errors on recorded decisions were not compared: {why}")


def test_all_perturbations_are_played_where_none_is_named():
    assert {name for name, _ in plays_of(None)} == set(PERTURBATIONS)
    assert plays_of(["delay", "delay:1"]) == (("delay", 1.0), ("delay", 2.0))


def test_policies_without_gradients_are_declined_in_one_sentence(copy, monkeypatch):
    run, teacher = copy
    monkeypatch.setattr(StudentPolicy, "differentiable", False)
    report = audit(run, episodes=4, perturbations=["fgsm:0.1"], expert=teacher)
    (play,) = report.plays
    assert play.students is None
    assert play.expert is not None
    assert "needs the gradients of the policy" in play.declined["students"]


class Raises(Perturbation):
    def observations(self, view, moment):
        raise SystemExit(0)


class PlugIns(Registry):
    def origin(self, name):
        return Origin("plugin", "1.0")


def test_a_plug_in_that_fails_is_named(copy, monkeypatch):
    run, teacher = copy
    table = {"noise": f"{__name__}:Raises"}
    monkeypatch.setattr(module, "PERTURBATIONS", PlugIns("perturbation", "none", table))
    with pytest.raises(UserCodeError, match=r"the perturbation 'noise' of plugin 1\.0"):
        audit(run, episodes=4, perturbations=["noise:0.1"], expert=teacher)


def test_the_command_prints_its_document_or_a_table(copy):
    run, teacher = copy
    words = ["audit", run, "--episodes", 4, "--perturbations", "dead", "--expert", teacher]
    words += ["--threads", 1]
    done = CliRunner().invoke(app, [*map(str, words), "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["plays"][0]["perturbation"] == "dead"
    assert np.isfinite(document["plays"][0]["students"]["change"]["mean"])
    done = CliRunner().invoke(app, [*map(str, words)])
    assert "every seed fails in" in done.output
    assert "dead 1" in done.output
    assert "Students were not better than random play beyond doubt" in done.output
    done = CliRunner().invoke(app, ["audit", str(run), "--perturbations", "nois"])
    assert done.exit_code == 2
