import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from kd_offline import environments
from kd_offline.cli.app import app
from kd_offline.errors import (
    CheckpointError,
    CorruptDatasetError,
    StorageError,
    UnknownNameError,
    UsageError,
    UserCodeError,
)
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.file_locks import only_writer
from kd_offline.registry import Origin, Registry
from kd_offline.reports.robustness import comparison_table
from kd_offline.robustness import audit as module
from kd_offline.robustness import perturbed_play
from kd_offline.robustness.audit import audit, plays_of
from kd_offline.robustness.perturbations import PERTURBATIONS
from kd_offline.robustness.perturbations.base import Perturbation
from kd_offline.robustness.perturbed_play import AuditSetup
from kd_offline.robustness.scores import metrics_of
from kd_offline.runs.folder import RunFolder, read_robustness
from kd_offline.schemas.robustness import RobustnessReport
from kd_offline.schemas.run import DatasetReference
from kd_offline.students.policy import StudentPolicy
from kd_offline.testing.factories import tiny_dataset
from kd_offline.tracking.base import FunctionObserver
from kd_offline.types import PolicyOutput
from tests.unit.evaluation.test_evaluation_setup import NAME, expert, make_run

EPISODES = 6
SHORT = environments.load(NAME, episode_limit=8).spec
PLAYS = ["noise:0.3", "noise:1", "dead", "fgsm:0.1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("audit")
    teacher = expert(place / "expert", spec=SHORT)
    run = make_run(place / "run", teacher, motion=True, spec=SHORT)
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
    assert report.greedy.unperturbed.expert.returns == evaluated.greedy.expert
    assert report.greedy.unperturbed.students.returns == evaluated.greedy.student
    assert report.random == evaluated.greedy.random


def test_every_perturbation_has_a_row_with_paired_changes(place):
    _, report = place
    rows = [(play.perturbation, play.strength) for play in report.greedy.plays]
    assert rows == [("noise", 0.3), ("noise", 1.0), ("dead", 1.0), ("fgsm", 0.1)]
    for play in report.greedy.plays:
        change = play.students.returns.mean - report.greedy.unperturbed.students.returns.mean
        assert play.students.change.mean == pytest.approx(change)
        beyond = play.students.change.mean - play.expert.change.mean
        assert play.beyond_expert.mean == pytest.approx(beyond)
        assert len(play.failures.rates) == 2
    assert report.greedy.failure.quantile == 0.5
    assert report.greedy.unperturbed.failures.expert == 0.5


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
    play = AuditSetup.play

    def interrupted(self, runner, condition):
        if condition.name == "dead":
            raise KeyboardInterrupt
        return play(self, runner, condition)

    monkeypatch.setattr(AuditSetup, "play", interrupted)
    before = (run / "robustness.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        audit(run, **asked)
    assert (run / "robustness.json").read_bytes() == before
    (run / "robustness.json").unlink()
    half = RunFolder(run).robustness()
    assert half.status == "running"
    assert [p.strength for p in half.greedy.plays] == [0.3, 1.0]
    monkeypatch.setattr(AuditSetup, "play", play)
    with pytest.raises(StorageError, match="there is an unfinished audit in"):
        audit(run, **asked)
    with pytest.raises(UsageError, match="begun with another episodes"):
        audit(run, resume=True, **{**asked, "episodes": EPISODES + 1})
    with pytest.raises(UsageError, match="begun with another students"):  # rates are by seed
        audit(run, resume=True, seeds=[4, 3], **asked)
    whole = audit(run, resume=True, **asked)
    same = {"seconds", "command"}
    assert whole.model_dump(exclude=same) == place[1].model_dump(exclude=same)
    assert not (run / "robustness.unfinished.json").exists()


def test_what_decides_the_bits_of_an_audit_decides_whether_it_is_continued(copy):
    run, teacher = copy
    asked = {"episodes": 4, "perturbations": ["dead"], "seeds": [3], "expert": teacher, "batch": 2}
    before = audit(run, **asked)
    assert before.batch == 2
    assert "--batch 2" in before.command
    with pytest.raises(UsageError, match="begun with another batch: repeat its command"):
        audit(run, resume=True, **{**asked, "batch": 3})
    folder = RunFolder(run)
    folder.write_robustness(before.model_copy(update={"accelerator": "cuda"}))
    with pytest.raises(UsageError, match="begun with another accelerator: repeat its command"):
        audit(run, resume=True, **asked)
    # What auto came to is the processor too, and on a cluster each machine chooses; files of former
    # versions state no batch.
    same = {"seconds"}
    for chosen in ("cpu", "auto"):
        folder.write_robustness(before.model_copy(update={"accelerator": chosen, "batch": None}))
        again = audit(run, resume=True, **asked)
        assert again.model_dump(exclude=same) == before.model_dump(exclude=same)


def test_an_audit_is_not_continued_with_another_version_of_a_plug_in(copy, plugins, other_version):
    run, teacher = copy
    asked = {"episodes": 4, "seeds": [3], "expert": teacher}
    audit(run, perturbations=["late:1"], **asked)
    other_version()
    with pytest.raises(UsageError, match="begun with another version of late: repeat its command"):
        audit(run, resume=True, perturbations=["dead", "late:1"], **asked)
    assert audit(run, resume=True, perturbations=["dead"], **asked).parts == ()


def test_drawn_actions_are_audited_too_and_workers_play_the_same_bits(copy):
    run, teacher = copy
    asked = {"episodes": 3, "perturbations": ["sticky:0.25"], "batch": 2, "seeds": [3]}
    asked |= {"expert": teacher, "quantile": 0.5, "modes": ["sampled", "greedy"]}
    both = audit(run, **asked)
    done = []
    observer = FunctionObserver(progress=lambda *count: done.append(count))
    workers = audit(run, on="serial", observers=[observer], **asked)
    same = {"seconds"}
    assert workers.model_dump(exclude=same) == both.model_dump(exclude=same)
    assert done[-1] == (12, 12, "episodes")  # three of each mode, with and without
    evaluated = evaluate(run, episodes=3, modes=["sampled"], expert=teacher, batch=2)
    sampled, greedy = both.sampled, both.greedy
    assert sampled.unperturbed.expert.returns == evaluated.sampled.expert
    assert sampled.unperturbed.students.returns.mean == evaluated.sampled.seeds[0].mean
    assert both.random == evaluated.sampled.random
    assert sampled.failure.threshold != greedy.failure.threshold
    said = metrics_of(both)
    assert (
        said["audit/sampled/sticky/0.25/return/students"] == sampled.plays[0].students.returns.mean
    )
    assert said["audit/sticky/0.25/return/students"] == greedy.plays[0].students.returns.mean


def test_an_interrupted_audit_of_both_modes_keeps_what_each_has_finished(copy, monkeypatch):
    run, teacher = copy
    asked = {"episodes": 2, "perturbations": ["dead", "delay:1"], "expert": teacher, "seeds": [3]}
    asked |= {"modes": ["greedy", "sampled"], "overwrite": True, "on": "serial"}
    play, stop = AuditSetup.play, "delay"

    def interrupted(self, runner, condition):
        if condition == ("sampled", stop, 1.0):
            raise UserCodeError("the environment failed")
        return play(self, runner, condition)

    monkeypatch.setattr(AuditSetup, "play", interrupted)
    with pytest.raises(UserCodeError):
        audit(run, **asked)
    asked |= {"overwrite": False, "resume": True, "perturbations": ["dead", "delay:1", "random"]}
    stop = "random"
    with pytest.raises(UserCodeError):
        audit(run, **asked)
    half = read_robustness(run, finished=False)
    assert [[p.perturbation for p in m.plays] for m in half.modes.values()] == [
        ["dead", "delay", "random"],
        ["dead", "delay"],
    ]


class Failing:
    """An expert that says nothing until it fails in its 21st step."""

    parameters, macs = 1, 1

    def __init__(self, spec):
        self.steps = 0

    def start(self, seeds):
        return np.zeros(len(seeds))

    def act(self, view, memory):
        self.steps += 1
        if self.steps > 20:
            raise ValueError("out of range")
        return PolicyOutput(np.zeros(view.available_actions.shape, np.float32)), memory


@pytest.mark.parametrize("on", [[], ["--on", "serial"]], ids=["here", "workers"])
def test_an_expert_that_fails_under_a_perturbation_is_named_and_what_was_done_is_kept(copy, on):
    run, _ = copy
    manifest = RunFolder(run).manifest()
    RunFolder(run).write_manifest(manifest.model_copy(update={"expert": ""}))
    words = ["audit", run, "--episodes", 2, "--threads", 1, "--expert"]
    words += ["python:tests.unit.robustness.test_audit:Failing", "--overwrite", *on]
    before = (run / "robustness.json").read_bytes()
    done = CliRunner().invoke(app, [*map(str, words), "--perturbations", "delay:1,noise:0.1"])
    assert done.exit_code == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: under noise of strength 0.1, expert 'python:tests")
    assert "failed in act (step 2): ValueError: out of range" in line
    assert "finished perturbations are kept: run the same command with --resume" in line
    assert (run / "robustness.json").read_bytes() == before
    kept = read_robustness(run, finished=False)
    assert [play.perturbation for play in kept.greedy.plays] == ["delay"]


def test_what_lies_in_the_place_of_a_report_is_noticed_before_anything_is_played(copy, monkeypatch):
    run, teacher = copy
    (run / "robustness.unfinished.json").mkdir()
    audit(run, episodes=2, perturbations=["dead"], seeds=[3], expert=teacher, overwrite=True)
    assert not (run / "robustness.unfinished.json").exists()
    monkeypatch.setattr(AuditSetup, "play", None)
    (run / "robustness.json").unlink()
    (run / "robustness.json").mkdir()
    with pytest.raises(StorageError, match="robustness"):
        audit(run, episodes=2, perturbations=["dead"], expert=teacher)
    with pytest.raises(UsageError, match="resume and overwrite exclude each other"):
        audit(run, resume=True, overwrite=True)


def test_a_second_audit_of_a_team_is_refused_while_one_is_under_way(copy):
    run, teacher = copy
    with only_writer(run, "auditing"), pytest.raises(StorageError, match="is auditing in"):
        audit(run, episodes=4, perturbations=["dead"], expert=teacher)


def test_reports_of_greedy_play_alone_are_read(place):
    document = json.loads(place[1].model_dump_json(exclude_none=True))
    former = {**document, **document.pop("greedy"), "version": [1, 0]}
    del former["greedy"]
    assert (
        RobustnessReport.model_validate(former).model_copy(update={"version": (2, 0)}) == place[1]
    )
    with pytest.raises(ValidationError, match="neither greedy nor sampled play"):
        RobustnessReport.model_validate({**document, "version": [2, 0]})


def test_batches_change_nothing(place, copy):
    run, teacher = copy
    few = audit(run, episodes=EPISODES, perturbations=["noise:1", "dead"], expert=teacher, batch=5)
    whole = {p.perturbation: p for p in place[1].greedy.plays if p.strength == 1}
    for play in few.greedy.plays:
        mean = whole[play.perturbation].students.returns.mean
        assert play.students.returns.mean == pytest.approx(mean, rel=1e-6)


def test_seeds_are_compared_with_those_of_another_run(place, copy, tmp_path):
    run, teacher = copy
    other = make_run(tmp_path / "other", teacher, motion=False, spec=SHORT)
    asked = {"episodes": EPISODES, "perturbations": ["dead"], "expert": teacher, "quantile": 0.5}
    same = audit(run, against=run, **asked)
    for play in (same.greedy.unperturbed, *same.greedy.plays):
        assert play.comparison.failures == play.failures
        changes = play.comparison.returns_change, play.comparison.together_change
        assert [change.mean for change in (*changes, play.comparison.failed_change)] == [0, 0, 0]
    report = audit(run, against=other.path, **asked)
    assert report.comparison.run == "other"
    for play in (report.greedy.unperturbed, *report.greedy.plays):
        beside = play.comparison
        gap = play.students.returns.mean - beside.returns.mean
        assert beside.returns_change.mean == pytest.approx(gap)
        together = play.failures.together.mean - beside.failures.together.mean
        assert beside.together_change.mean == pytest.approx(together)
        failed = np.mean(play.failures.rates) - np.mean(beside.failures.rates)
        assert beside.failed_change.mean == pytest.approx(failed)
    assert RobustnessReport.model_validate_json(report.model_dump_json()) == report
    rows = {row[0] for row in comparison_table(report, report.greedy).rows}
    assert {name.replace("\N{NO-BREAK SPACE}", " ") for name in rows} == {"none", "dead 1"}


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
    with pytest.raises(UnknownNameError, match="unknown mode 'best'"):
        audit(run, episodes=4, modes=["best"], expert=teacher)
    with pytest.raises(UsageError, match="without a mode: give one or both of greedy, sampled"):
        audit(run, episodes=4, modes=[], expert=teacher)
    with pytest.raises(UsageError, match="keep is 1: give a share above 0 and below 1"):
        audit(run, episodes=4, keep=1.0, expert=teacher)


def test_a_strength_that_the_task_cannot_have_is_refused_before_anything_is_played(
    copy, monkeypatch
):
    run, teacher = copy
    monkeypatch.setattr(AuditSetup, "play", None)
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


def test_a_damaged_dataset_is_noticed_before_anything_is_played(place, tmp_path, monkeypatch):
    teacher, path = place[0] / "expert", tmp_path / "d.zarr"
    buffer = tiny_dataset(path, 4, [8] * 4, spec=SHORT)
    stated = DatasetReference(id=buffer.id, name="tiny", path=str(path))
    run = make_run(tmp_path / "run", teacher, motion=True, spec=SHORT, dataset=stated).path
    asked = {"episodes": 2, "perturbations": ["dead"], "expert": teacher}
    assert audit(run, **asked).errors is not None
    for chunk in (path / "steps" / "logits" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    (note,) = audit(run, **asked).notes
    assert note.endswith("the dataset cannot be read, and verifying it tells why")
    monkeypatch.setattr(AuditSetup, "play", None)
    with pytest.raises(CorruptDatasetError):
        audit(run, dataset=path, **asked)


def test_all_perturbations_are_played_where_none_is_named():
    assert {name for name, _ in plays_of(None)} == set(PERTURBATIONS)
    assert plays_of(["delay", "delay:1"]) == (("delay", 1.0), ("delay", 2.0))


def test_policies_without_gradients_are_declined_in_one_sentence(copy, monkeypatch):
    run, teacher = copy
    monkeypatch.setattr(StudentPolicy, "differentiable", False)
    report = audit(run, episodes=4, perturbations=["fgsm:0.1"], expert=teacher)
    (play,) = report.greedy.plays
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
    for each in (module, perturbed_play):
        monkeypatch.setattr(each, "PERTURBATIONS", PlugIns("perturbation", "none", table))
    with pytest.raises(UserCodeError, match=r"the perturbation 'noise' of plugin 1\.0"):
        audit(run, episodes=4, perturbations=["noise:0.1"], expert=teacher)


def test_the_command_prints_its_document_or_a_table(copy):
    run, teacher = copy
    words = ["audit", run, "--episodes", 4, "--perturbations", "dead", "--expert", teacher]
    words += ["--threads", 1]
    done = CliRunner().invoke(app, [*map(str, words), "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["greedy"]["plays"][0]["perturbation"] == "dead"
    assert np.isfinite(document["greedy"]["plays"][0]["students"]["change"]["mean"])
    done = CliRunner().invoke(app, [*map(str, words)])
    assert "every seed fails in" in done.output
    assert "dead 1" in done.output
    assert "Students were not better than random play beyond doubt" in done.output
    done = CliRunner().invoke(app, ["audit", str(run), "--perturbations", "nois"])
    assert done.exit_code == 2
