"""The executor on a real Ray cluster: several nodes as processes of this machine."""

import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import (
    MissingExtraError,
    StorageError,
    UnknownNameError,
    UsageError,
    WorkerError,
)
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.execution import executor, executor_on
from kd_offline.execution.ray import _require_same_versions
from kd_offline.experts import checkpoint
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.train import train
from kd_offline.experts.train_all import train_all
from kd_offline.recording.record import record
from kd_offline.runs.folder import STUDENTS
from kd_offline.sweeps.sweep import sweep
from kd_offline.testing.execution import check_executor
from kd_offline.testing.factories import environment_spec, tiny_dataset
from kd_offline.tracking.base import FunctionObserver
from tests.end_to_end.test_plugins_on_workers import all_parts
from tests.servers import answering

ray = pytest.importorskip("ray")
SPREAD = "mpe/simple_spread_v3"


@pytest.fixture(scope="module")
def cluster(installed_plugins):
    """A cluster of two nodes with one core each, on which the package of tests/plugins is too."""
    paths = [str(installed_plugins), os.environ.get("PYTHONPATH", "")]
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(num_cpus=1, object_store_memory=80 << 20)
        made.wait_for_nodes()
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def unconnected(cluster, monkeypatch):
    """Return the place of the cluster, which is that of this machine, without a connection."""
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return f"ray://{cluster.address}"


@pytest.fixture
def place(cluster, monkeypatch):
    """Return the place of the cluster, with a connection whose workers later tests use again."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    if not ray.is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    return f"ray://{cluster.address}"


def counted(number, folder, dies=()):
    """Note every attempt in a file; the first attempt of some numbers does not come back."""
    notes = Path(folder, str(number))
    first = not notes.exists()
    with notes.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if first and number in dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def slow(number, folder):
    counted(number, folder)
    time.sleep(1.0)
    return number


def attempts(folder):
    return {int(file.name): len(file.read_text().split()) for file in Path(folder).iterdir()}


def test_the_executor_keeps_the_rules(place):
    check_executor(partial(executor, "ray"))


def unknown(name):
    raise UnknownNameError(what="mask", got=name, allowed=["all"])


def unforeseen(number):
    raise ZeroDivisionError(number)


def test_an_error_keeps_its_sentence_and_names_the_file_with_its_traceback(place, tmp_path):
    with executor_on(place, logs=tmp_path) as workers:
        with pytest.raises(WorkerError, match="unknown mask 'al': allowed are all") as caught:
            list(workers.map(unknown, ["al"]))
        assert caught.value.exit_code == 2
        assert str(tmp_path / "task-1.log") in str(caught.value)
        with pytest.raises(ZeroDivisionError) as other:
            list(workers.map(unforeseen, [7]))
        assert str(tmp_path / "task-1.log") in other.value.__notes__[0]
    assert "in unforeseen" in (tmp_path / "task-1.log").read_text()


def test_a_task_whose_worker_is_killed_is_run_again_and_no_other(place, tmp_path):
    with executor_on(place) as workers:
        task = partial(counted, folder=str(tmp_path), dies=(2,))
        assert list(workers.map(task, range(6))) == list(range(6))
    assert attempts(tmp_path) == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1, 5: 1}


def test_a_node_that_is_killed_loses_only_its_unfinished_tasks(cluster, place, tmp_path):
    node = cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    with executor_on(place) as workers:
        results = workers.map(partial(slow, folder=str(tmp_path)), range(10))
        first = next(results)
        cluster.remove_node(node, allow_graceful=False)
        assert [first, *results] == list(range(10))
    counts = attempts(tmp_path)
    assert len(counts) == 10
    assert sum(counts.values()) <= 10 + 2  # what ran on its two cores


def test_batches_played_on_a_cluster_are_the_recording_of_one_process(unconnected, tmp_path):
    settings: dict[str, Any] = {"episodes": 12, "batch": 4, "threads": 1, "partner": None}
    whole = record(SPREAD, tmp_path / "whole.zarr", **settings)
    progress = []
    observer = FunctionObserver(progress=lambda done, total, unit: progress.append((done, total)))
    settings |= {"on": unconnected, "observers": [observer]}
    made = record(SPREAD, tmp_path / "m.zarr", **settings)
    assert not ray.is_initialized()  # the connection that it made is closed
    assert made.id == whole.id
    assert progress == [(0, 12), (4, 12), (8, 12), (12, 12)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.zarr", "whole.zarr"]


_WAITING = """
import os, signal, sys, time
from functools import partial
from pathlib import Path
from kd_offline.execution import executor_on

def waiting(number, folder):
    Path(folder, str(number)).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told to ignore it
    with executor_on(sys.argv[2]) as workers:
        list(workers.map(partial(waiting, folder=sys.argv[1]), range(2)))
"""


def test_ctrl_c_ends_the_tasks_of_the_cluster(place, tmp_path):
    (tmp_path / "waiting_tasks.py").write_text(_WAITING)
    script = tmp_path / "waiting_tasks.py"
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), place])
    files = [tmp_path / str(k) for k in range(2)]
    for _ in range(1200):
        if all(file.exists() and file.read_text() for file in files):
            break
        assert parent.poll() is None
        time.sleep(0.1)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(60) != 0
    for file in files:
        for _ in range(1200):
            if not Path("/proc", file.read_text()).exists():
                break
            time.sleep(0.1)
        else:
            pytest.fail("a task goes on")


def test_where_there_is_no_cluster_it_is_said(unconnected, monkeypatch):
    with pytest.raises(UsageError, match=r"no Ray cluster at '127\.0\.0\.1:9'.*give ray://HOST"):
        executor_on("ray://127.0.0.1:9")
    with pytest.raises(UsageError, match="no Ray cluster at 'here'"):
        executor_on("ray://here")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"needs the library 'ray'.*kd-offline\[ray\]"):
        executor_on("ray")


def test_a_node_with_another_version_is_named_before_anything_runs(place, monkeypatch):
    monkeypatch.setattr("kd_offline.__version__", "9.9.9")
    with pytest.raises(
        UsageError, match=r"node .* has kd-offline 0.*, but this process has 9\.9\.9"
    ):
        executor_on(place)


def test_a_node_without_the_package_is_named():
    versions: dict[str, str | None] = {"kd-offline": None, "Ray": "2.0"}
    with pytest.raises(UsageError, match=r"n1 has no kd-offline, but this process has 0\.1: inst"):
        _require_same_versions("n1", versions, versions | {"kd-offline": "0.1"})


def test_a_node_with_another_version_of_a_plug_in_is_named(place, other_version):
    other_version()
    words = r"has kd-offline-example-plugin 0\.1\.0, but this process has 0\.2\.0: install"
    with pytest.raises(UsageError, match=words):
        executor_on(place)


def not_here(address):
    raise StorageError(f"there is nothing at {address!r}: check the address")


def test_an_address_that_a_node_does_not_see_is_named_before_any_task(place):
    words = r"node .* cannot run the tasks: there is nothing at 's3://b': check the address"
    with pytest.raises(WorkerError, match=words):
        executor_on(place, check=partial(not_here, "s3://b"))


def test_what_listens_and_is_not_ray_is_refused_at_once(unconnected):
    with answering(lambda request: None) as url:
        place = url.replace("http", "ray")
        with pytest.raises(UsageError, match="what listens there is not Ray"):
            executor_on(place)


def test_a_file_that_a_node_does_not_see_is_named(place, tmp_path):
    with pytest.raises(
        UsageError, match=r"does not see '.*expert': give a path on a disk that all"
    ):
        executor_on(place, files=[tmp_path / "expert"])
    assert not list(tmp_path.iterdir())


def test_trials_and_seeds_on_a_cluster_are_those_of_one_process(place, tmp_path):
    pytest.importorskip("optuna")
    dataset = tiny_dataset(tmp_path / "d.zarr", 12, spec=environment_spec((4, 4))).path
    settings: dict[str, Any] = {
        "recipe": distill_recipe(method="kl", settings={"optimisation.epochs": 1, "threads": 1}),
        "trials": 2,
        "architectures": ("gru", "mlp"),
        "widths": (4, 8),
        "judge": "agreement",
        "precisions": ("fp32",),
    }
    with pytest.raises(UsageError, match=r"not kept in a journal .*: keep its trials in a data"):
        sweep(dataset, tmp_path / "s", on=place, **settings)
    assert not any((tmp_path / "s").iterdir())
    alone = sweep(dataset, tmp_path / "alone", **settings)
    progress = []
    observer = FunctionObserver(progress=lambda done, total, unit: progress.append((done, total)))
    storage = f"sqlite:///{tmp_path / 'trials.db'}"
    report = sweep(
        *(dataset, tmp_path / "s"), on=place, storage=storage, observers=[observer], **settings
    )
    assert report.points == alone.points
    seeds = settings["recipe"].model_copy(update={"seeds": (0, 1)})
    distill(dataset, tmp_path / "one", seeds)
    distill(dataset, tmp_path / "two", seeds, on=place)
    assert (tmp_path / "two" / STUDENTS).read_bytes() == (tmp_path / "one" / STUDENTS).read_bytes()
    assert progress == [(0, 2), (1, 2), (2, 2)]


def test_experts_and_evaluations_on_a_cluster_are_those_of_one_process(place, tmp_path):
    small = {"episodes_per_batch": 4, "frames": 100, "architecture.trunk": (4,)}
    small |= {"architecture.gru": 4}
    recipes = {f"{k}": train_recipe(SPREAD, settings=small | {"seed": k}) for k in (0, 1)}
    how: dict[str, Any] = {"threads": 1, "score_episodes": 2}
    train_all(recipes, tmp_path / "all", on=place, **how)
    for name, recipe in recipes.items():
        train(recipe, tmp_path / name, **how)
        one, other = (folder / name / checkpoint.WEIGHTS for folder in (tmp_path, tmp_path / "all"))
        assert one.read_bytes() == other.read_bytes()
    expert, run = tmp_path / "0", tmp_path / "run"
    record(SPREAD, tmp_path / "d.zarr", expert=str(expert), episodes=4, threads=1, partner=None)
    settings = {"optimisation.epochs": 1, "threads": 1}
    distill(tmp_path / "d.zarr", run, distill_recipe(method="kl", settings=settings))
    reports = [
        evaluate(run, expert=expert, episodes=6, batch=3, modes=("greedy",), on=on)
        for on in (None, place)
    ]
    assert reports[0].greedy == reports[1].greedy
    assert not (tmp_path / "run.evaluation").exists()


def test_parts_of_another_package_are_found_on_the_nodes(plugins, place, tmp_path):
    assert all_parts(place, tmp_path / "cluster") == all_parts("serial", tmp_path / "alone")


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("gpus=0.5", r"no node of the Ray cluster has 0\.5 GPUs for a task"),
        ("cores=3", "no node of the Ray cluster has 3 cores for a task"),
        ("memory_mb=99000000", "bytes of memory for a task"),
    ],
)
def test_what_a_task_needs_is_asked_of_the_nodes(place, stated, words):
    with pytest.raises(UsageError, match=words):
        executor_on(f"{place},{stated}")
