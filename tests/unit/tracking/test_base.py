import warnings

import pytest

from kd_offline.errors import ObserverWarning
from kd_offline.tracking.base import (
    FunctionObserver,
    NullObserver,
    Observer,
    Observers,
    Operation,
    counting,
    observed,
)


class Listener(Observer):
    """Keeps what it was told."""

    def __init__(self):
        self.told = []

    def start(self, operation):
        self.told.append(("start", operation.title))

    def progress(self, done, total, unit):
        self.told.append(("progress", done, total, unit))

    def metrics(self, step, values, *, series=""):
        self.told.append(("metrics", step, dict(values), series))

    def message(self, text):
        self.told.append(("message", text))

    def end(self, result=None, error=None):
        self.told.append(("end", result, error))


class Broken(Listener):
    """Fails in one method."""

    def __init__(self, method, error=None):
        super().__init__()

        def fail(*arguments, **options):
            self.told.append(method)
            raise error or ValueError("no\nroom")

        setattr(self, method, fail)


def run(*observers, files=(), error=None):
    with observed(Operation("train"), observers, files) as observer:
        observer.message("ready")
        observer.progress(1, 2, "steps")
        observer.metrics(1, {"train/loss": 0.5}, series="seed 0")
        if error is not None:
            raise error
        observer.result = "done"


WHOLE = [
    ("start", "train"),
    ("message", "ready"),
    ("progress", 1, 2, "steps"),
    ("metrics", 1, {"train/loss": 0.5}, "seed 0"),
    ("end", "done", None),
]


def test_every_observer_is_told_everything_in_order():
    first, second = Listener(), Listener()
    run(first, NullObserver(), second)
    assert first.told == second.told == WHOLE


def test_an_observer_is_told_how_an_operation_failed():
    listener, error = Listener(), ValueError("lost")
    with pytest.raises(ValueError, match="lost"):
        run(listener, error=error)
    assert listener.told[-1] == ("end", None, error)


@pytest.mark.parametrize("method", ["start", "progress", "metrics", "message", "end"])
def test_an_observer_that_fails_is_named_once_and_left_out(method):
    broken, listener = Broken(method), Listener()
    with pytest.warns(ObserverWarning) as caught:
        run(broken, listener)
    assert [str(w.message) for w in caught] == [
        f"observer Broken failed in {method}: ValueError: no room; correct it; it is left out from "
        "here on, and the work goes on"
    ]
    assert listener.told == WHOLE
    assert broken.told[-1] == method


def test_an_observer_that_fails_ends_nothing_where_warnings_are_errors(caplog):
    listener = Listener()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(Broken("metrics", SystemExit(0)), listener)
    assert listener.told == WHOLE
    assert "observer Broken failed in metrics: SystemExit: 0" in caplog.text


def test_ctrl_c_within_an_observer_ends_the_operation():
    listener = Listener()
    with pytest.raises(KeyboardInterrupt):
        run(Broken("progress", KeyboardInterrupt()), listener)
    assert isinstance(listener.told[-1][2], KeyboardInterrupt)


def test_what_an_operation_needs_written_is_told_first_and_its_failure_ends_the_operation():
    listener = Listener()
    with pytest.raises(OSError, match="full"):
        run(listener, files=[Broken("metrics", OSError("full"))])
    assert [what for what, *_ in listener.told] == ["start", "message", "progress", "end"]


def test_an_observer_may_be_made_of_functions():
    told = []
    run(FunctionObserver(progress=lambda *now: told.append(now)))
    run(FunctionObserver(end=lambda result, error: told.append(result)))
    assert told == [(1, 2, "steps"), "done"]


def test_counting_counts_from_nothing_to_all():
    listener = Listener()
    tick = counting(Observers([listener]), 2, "rounds")
    tick()
    tick()
    assert listener.told == [("progress", k, 2, "rounds") for k in range(3)]


def test_an_operation_is_titled_by_its_output(tmp_path):
    assert Operation("distill", {}, tmp_path / "run").title == "distill run"
    assert Operation("diff").title == "diff"
