"""Processes that share a sweep, and those that are killed in it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import islice

import pytest

pytest.importorskip("optuna")

from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import StorageError
from kd_offline.execution.base import Serial
from kd_offline.sweeps.studies import (
    JOURNAL,
    Journal,
    JournalStore,
    registered_worker,
    worker_died,
)
from kd_offline.sweeps.sweep import sweep
from kd_offline.testing.factories import environment_spec, tiny_dataset

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no such locks there")

PLAN = {
    "architectures": ("gru",),
    "widths": (4, 8),
    "precisions": ("fp32",),
    "judge": "agreement",
    "recipe": distill_recipe(method="kl", settings={"optimisation.epochs": 1}),
}
_KILLED = """
import sys, time
from tests.unit.sweeps.test_trials_workers import PLAN
from kd_offline.sweeps import sweep, trials
def hang(*arguments, **named):
    print("at work", flush=True)
    time.sleep(600)
trials.distill = hang
sweep.sweep(sys.argv[1], sys.argv[2], trials=1, **PLAN)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweeps") / "d.zarr"
    return tiny_dataset(path, 12, spec=environment_spec((4, 4))).path


@pytest.fixture(scope="module")
def begun(dataset, tmp_path_factory):
    """Return the folder of a sweep of one trial."""
    folder = tmp_path_factory.mktemp("begun") / "sweep"
    sweep(dataset, folder, trials=1, **PLAN)
    return folder


def trials_of(folder):
    """Return number, state and parameters of every trial, from the journal alone."""
    study = JournalStore(folder).open(["maximize", *["minimize"] * 3])
    return [(t.number, t.state.name, t.params) for t in study.get_trials()]


def test_the_trial_of_a_killed_process_is_done_by_the_next_one(dataset, tmp_path):
    folder = tmp_path / "sweep"
    command = [sys.executable, "-c", _KILLED, str(dataset), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"at work\n"
        process.send_signal(signal.SIGKILL)
    [(_, state, params)] = trials_of(folder)[:1]
    assert state == "RUNNING"
    report = sweep(dataset, folder, trials=2, **PLAN)
    found = trials_of(folder)
    assert [state for _, state, _ in found].count("COMPLETE") == 2
    assert [number for number, state, _ in found if state == "FAIL"] == [0]
    assert all(state != "RUNNING" for _, state, _ in found)
    assert found[-1][2] == params or found[1][2] == params
    assert "runs/0000" in {point.run for point in report.points}
    assert report.failed == 1
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    assert sweep(dataset, folder, trials=2, **PLAN) == report  # finished: done already
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == before


def test_trials_of_a_process_share_the_rollouts_of_the_expert(dataset, tmp_path, monkeypatch):
    from kd_offline.sweeps import trials

    shared = []

    def judged(run, buffer, plan, precision, allowed, baselines):
        shared.append(baselines)
        return 1.0

    monkeypatch.setattr(trials, "quality", judged)
    sweep(dataset, tmp_path / "sweep", trials=2, **PLAN | {"precisions": ("fp32", "int8")})
    first, second = shared
    assert first is second


def test_the_trial_of_a_living_process_is_left_to_it(tmp_path):
    with registered_worker(tmp_path) as name:
        assert not worker_died(tmp_path, name)
    assert worker_died(tmp_path, name)
    assert worker_died(tmp_path, None)
    assert worker_died(tmp_path, "../../etc/passwd")


def test_ctrl_c_leaves_the_trial_to_the_next_one(dataset, tmp_path, monkeypatch):
    from kd_offline.sweeps import trials

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trials, "distill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(dataset, tmp_path / "sweep", trials=1, **PLAN)
    report = sweep(dataset, tmp_path / "sweep", trials=1, **PLAN)
    assert [point.run for point in report.points] == ["runs/0000"]


def test_a_trial_that_fails_leaves_those_beside_it_to_the_next_one(dataset, tmp_path, monkeypatch):
    from kd_offline.sweeps import trials

    def failing(*arguments, **named):
        raise ZeroDivisionError

    class Eager(Serial):
        def map(self, task, items):
            return super().map(task, list(islice(items, 2)))

    with monkeypatch.context() as patched:
        patched.setattr(trials, "distill", failing)
        patched.setattr("kd_offline.sweeps.sweep.Serial", Eager)
        with pytest.raises(ZeroDivisionError):
            sweep(dataset, tmp_path / "sweep", trials=2, **PLAN)
    found = [(state, params) for _, state, params in trials_of(tmp_path / "sweep")]
    assert [state for state, _ in found] == ["FAIL", "FAIL", "WAITING"]
    assert found[2][1] == found[1][1]


_APPEND = """
import sys
from pathlib import Path
from kd_offline.sweeps.studies import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(50):
    journal.append_logs([{sys.argv[2]: number}, {sys.argv[2]: -number}])
"""


def test_processes_write_whole_lines(tmp_path):
    command = [sys.executable, "-c", _APPEND, str(tmp_path / JOURNAL)]
    others = [subprocess.Popen([*command, letter]) for letter in "ab"]
    assert [other.wait() for other in others] == [0, 0]
    found = list(Journal(tmp_path / JOURNAL).read_logs(0))
    assert len(found) == 200
    assert [log["a"] for log in found if log.get("a", -1) >= 0][:3] == [0, 0, 1]


def test_a_line_that_a_killed_process_left_unfinished_is_dropped(tmp_path):
    journal = Journal(tmp_path / JOURNAL)
    journal.append_logs([{"x": 1}])
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"x": 2, "lo')
    assert list(journal.read_logs(0)) == [{"x": 1}]
    journal.append_logs([{"x": 3}])
    assert list(journal.read_logs(0)) == [{"x": 1}, {"x": 3}]
    assert list(journal.read_logs(1)) == [{"x": 3}]
    assert list(Journal(tmp_path / JOURNAL).read_logs(1)) == [{"x": 3}]


@pytest.mark.parametrize("line", [b"\xff\n", b"[]\n", b'{"op_code": 77}\n', b'{"op_code": 0}\n'])
def test_a_damaged_journal_is_one_sentence(dataset, begun, tmp_path, line):
    folder = shutil.copytree(begun, tmp_path / "sweep")
    (folder / JOURNAL).write_bytes(line + (folder / JOURNAL).read_bytes())
    with pytest.raises(StorageError, match=r"trials\.journal' is damaged"):
        sweep(dataset, folder, trials=1, **PLAN)


def test_links_in_a_sweep_of_a_stranger_lead_nowhere(dataset, begun, tmp_path):
    victim = tmp_path / "home" / "file"
    victim.parent.mkdir()
    victim.write_text("mine\n")
    folder = shutil.copytree(begun, tmp_path / "sweep")
    (folder / JOURNAL).unlink()
    (folder / JOURNAL).symlink_to(victim)
    with pytest.raises(StorageError, match="it is a link"):
        sweep(dataset, folder, trials=2, **PLAN)
    (folder / JOURNAL).unlink()
    shutil.rmtree(folder / "runs")
    (folder / "runs").symlink_to(victim.parent)
    with pytest.raises(StorageError, match="is a link where a folder belongs"):
        sweep(dataset, folder, trials=1, **PLAN)
    (folder / "runs").unlink()
    (folder / "runs").mkdir()
    (folder / "runs" / "0000").symlink_to(victim.parent)
    with pytest.raises(StorageError, match="is a link where a folder belongs"):
        sweep(dataset, folder, trials=2, **PLAN)
    assert [path.name for path in victim.parent.iterdir()] == ["file"]
    assert victim.read_text() == "mine\n"


def test_the_journal_is_that_of_optuna(begun):
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(begun / JOURNAL)))
    study = optuna.load_study(study_name="sweep", storage=storage)
    assert json.loads(study.trials[0].user_attrs["point"])["point"]["run"] == "runs/0000"
