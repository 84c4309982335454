import json
import os
import struct

import pytest

from kd_offline.errors import MissingExtraError, UnknownNameError, UsageError, UserCodeError
from kd_offline.testing.environments import ConformanceError
from kd_offline.testing.observers import check_observer
from kd_offline.tracking import OBSERVERS, tracker
from kd_offline.tracking.base import NullObserver, Observer, Operation, observed
from kd_offline.tracking.progress_bar import ProgressBar


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No tracker reaches a server; what has no folder of its own goes to ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


SETTINGS = {"dataset": "sha256:0", "recipe": {"mask": None, "seeds": [0, 1]}}


def tracked(observer, folder, error=None):
    with observed(Operation("distill", SETTINGS, folder / "run"), [observer]) as told:
        for seed in (0, 1):
            for epoch in (1, 2):
                values = {"train/kl": seed + epoch / 4, "train/loss": 1.0}
                told.metrics(epoch, values, series=f"seed {seed}")
        if error is not None:
            raise error


def test_tensorboard_keeps_every_scalar_of_every_seed(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked(tracker(f"tensorboard:{tmp_path / 'logs'}"), tmp_path)
    for seed in (0, 1):
        events = EventAccumulator(str(tmp_path / "logs" / "distill-run" / f"seed-{seed}"))
        events.Reload()
        assert events.Tags()["scalars"] == ["train/kl", "train/loss"]
        kept = [(event.step, event.value) for event in events.Scalars("train/kl")]
        assert kept == [(epoch, seed + epoch / 4) for epoch in (1, 2)]
    whole = EventAccumulator(str(tmp_path / "logs" / "distill-run"))
    whole.Reload()
    (text,) = whole.Tensors("settings/text_summary")
    assert b'"dataset": "sha256:0"' in text.tensor_proto.string_val[0]


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError("lost"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_mlflow_keeps_metrics_settings_and_how_it_ended(tmp_path, error, status):
    from mlflow.tracking import MlflowClient

    observer = tracker(f"mlflow:{tmp_path / 'store'}")
    if error is None:
        tracked(observer, tmp_path)
    else:
        with pytest.raises(type(error)):
            tracked(observer, tmp_path, error)
    store = MlflowClient((tmp_path / "store").as_uri(), registry_uri=(tmp_path / "store").as_uri())
    experiment = store.get_experiment_by_name("kd-offline")
    runs = {run.info.run_name: run for run in store.search_runs([experiment.experiment_id])}
    assert set(runs) == {"distill run seed 0", "distill run seed 1"}
    for seed in (0, 1):
        run = runs[f"distill run seed {seed}"]
        assert run.info.status == status
        assert run.data.params["recipe.seeds"] == "[0, 1]"
        history = store.get_metric_history(run.info.run_id, "train/kl")
        assert [(m.step, m.value) for m in history] == [(e, seed + e / 4) for e in (1, 2)]


def records(file):
    """Yield the records of a file of W&B: blocks of 32 KiB as in a journal of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def test_wandb_keeps_a_run_for_every_seed_without_a_server(tmp_path):
    import wandb

    tracked(tracker("wandb:students"), tmp_path)
    wandb.teardown()  # its own process has written everything then
    kept = {}
    for file in (tmp_path / "wandb").glob("offline-run-*/*.wandb"):
        entries = list(records(file))
        (run,) = [entry.run for entry in entries if entry.HasField("run")]
        assert (run.project, run.run_group, run.job_type) == ("students", "distill run", "distill")
        rows = [
            {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row}
            for row in (entry.history.item for entry in entries if entry.HasField("history"))
        ]
        kept[run.display_name] = [(row["_step"], row["train/kl"]) for row in rows]
        assert {entry.exit.exit_code for entry in entries if entry.HasField("exit")} == {0}
    assert kept == {
        f"distill run seed {seed}": [(epoch, seed + epoch / 4) for epoch in (1, 2)]
        for seed in (0, 1)
    }


@pytest.mark.parametrize("name", OBSERVERS.built_in)
def test_every_tracker_takes_all_that_it_may_be_told(name):
    check_observer(lambda: tracker(name))


@pytest.mark.parametrize("make", [ProgressBar, NullObserver])
def test_what_always_listens_takes_all_that_it_may_be_told(make):
    check_observer(make)


def test_an_unknown_tracker_is_refused():
    with pytest.raises(UnknownNameError, match=r"unknown tracker 'tensorbord': .* 'tensorboard'"):
        tracker("tensorbord:logs")


@pytest.mark.parametrize(
    ("name", "library", "hidden"),
    [
        ("tensorboard", "tensorboard", "torch.utils.tensorboard"),
        ("wandb", "wandb", "wandb"),
        ("mlflow", "mlflow-skinny", "mlflow.tracking"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    monkeypatch, name, library, hidden
):
    monkeypatch.setitem(__import__("sys").modules, hidden, None)
    with pytest.raises(MissingExtraError, match=rf"{library}.*pip install 'kd-offline\[track\]'"):
        tracker(name)


def test_mlflow_keeps_what_the_user_set(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    tracker("mlflow")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


class Forgetful(Observer):
    """Cannot listen to a second operation."""

    def __init__(self):
        self.begun = False

    def start(self, operation):
        if self.begun:
            raise RuntimeError("begun already")
        self.begun = True


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (Forgetful, "operations: RuntimeError: begun already"),
        (lambda: object(), "methods: it has no method 'start'"),
    ],
)
def test_the_check_names_the_rule_that_an_observer_breaks(make, rule):
    with pytest.raises(ConformanceError, match=rule):
        check_observer(make)


@pytest.fixture
def plug_in(monkeypatch):
    """A tracker of an installed plug-in, made by a function."""

    def install(make):
        import kd_offline.registry as registry

        class Entry:
            name, value = "mine", "plug_in:make"
            dist = type("Dist", (), {"name": "kd-plug-in", "version": "1.0"})

            def load(self):
                return make

        monkeypatch.setattr(registry, "_installed", lambda *known: {OBSERVERS.group: (Entry(),)})

    return install


def test_a_tracker_of_a_plug_in_gets_the_text_after_the_colon(plug_in):
    made: list[str] = []

    def make(target):
        made.append(target)
        return NullObserver()

    plug_in(make)
    tracker("mine:a:b")
    assert made == ["a:b"]


def test_a_tracker_of_a_plug_in_that_cannot_be_made_is_refused(plug_in):
    plug_in(lambda target: 1 / 0)
    with pytest.raises(UserCodeError, match=r"the tracker 'mine' of kd-plug-in 1.0 failed in make"):
        tracker("mine")
    plug_in(lambda target: 3)
    with pytest.raises(UsageError, match="has no method 'start': derive its class from Observer"):
        tracker("mine")
