import pytest

from kd_offline.errors import CheckpointError, UnknownNameError, UsageError
from kd_offline.evaluation.evaluation_setup import load_evaluation_setup
from kd_offline.runs.complete import complete_run
from tests.unit.evaluation.test_evaluation_setup import expert, make_run


@pytest.fixture
def teacher(tmp_path):
    return expert(tmp_path / "expert")


@pytest.fixture
def run(tmp_path, teacher):
    return make_run(tmp_path / "run", teacher, motion=False)


def test_a_complete_run_has_the_team_of_every_seed(run):
    complete = complete_run(run.path)
    assert (complete.path, complete.manifest) == (run.path, run.manifest())
    assert [team.seed for team in complete.teams] == [3, 4]
    assert (complete.team().seed, complete.team(4).seed) == (3, 4)
    with pytest.raises(UnknownNameError, match="unknown seed of the run '5': allowed are 3, 4"):
        complete.team(5)


def test_its_files_are_read_once(run, teacher):
    """What changes in the folder during an operation does not mix two states of it."""
    complete = complete_run(run.path)
    run.students.unlink()
    (run.path / "run.json").unlink()
    setup = load_evaluation_setup(complete, expert=teacher)
    assert setup.policies.students == complete.teams
    assert complete.teams is complete.teams


def test_an_unfinished_run_is_refused(run):
    run.write_manifest(run.manifest().model_copy(update={"status": "interrupted"}))
    with pytest.raises(
        UsageError, match=r"is interrupted, not complete: finish it with distill.*resume=True"
    ):
        complete_run(run.path)


def test_files_of_different_runs_are_refused(run):
    run.write_manifest(run.manifest().model_copy(update={"seeds": (3,)}))
    with pytest.raises(CheckpointError, match=r"not the ones that its run\.json describes"):
        complete_run(run.path)
