import io
import sys
from types import SimpleNamespace

import pytest

from kd_offline.tracking.base import Operation
from kd_offline.tracking.progress_bar import ProgressBar

CLOCK = "kd_offline.tracking.progress_bar.time.monotonic"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log(capsys):
    """What was written to a stderr that is no terminal."""
    return SimpleNamespace(getvalue=lambda: capsys.readouterr().err)


def begun(name, **options):
    bar = ProgressBar(**options)
    bar.start(Operation(name))
    return bar


def test_a_terminal_has_a_bar_that_goes_when_all_is_done(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    bar = begun("record")
    bar.progress(5, 10, "episodes")
    assert "0/10" in stream.getvalue()
    bar.message("calibrated")
    assert "calibrated\n" in stream.getvalue()
    bar.end()
    assert stream.getvalue().endswith("\r")


def test_a_log_has_a_line_for_every_epoch(log):
    bar = begun("distill")
    for epoch in (1, 2):
        bar.metrics(epoch, {"train/loss": 1.0, "train/kl": epoch / 10}, series="seed 0")
        if epoch == 2:
            held_out = {"validation/kl": 0.25, "validation/agreement": 0.5}
            bar.metrics(epoch, held_out, series="seed 0")
        bar.progress(epoch, 4, "epochs")
    bar.metrics(1, {"train/kl": 0.5}, series="seed 1")
    bar.progress(3, 4, "epochs")
    assert log.getvalue().splitlines() == [
        "1 of 4 epochs, seed 0, train kl 0.1000",
        "2 of 4 epochs, seed 0, train kl 0.2000, validation kl 0.2500 agreement 0.5000",
        "3 of 4 epochs, seed 1, train kl 0.5000",
    ]


def test_a_log_of_long_work_has_a_line_for_every_tenth(log, monkeypatch):
    clock = iter(range(0, 10**6, 3))
    monkeypatch.setattr(CLOCK, lambda: next(clock))
    bar = begun("record")
    for done in range(0, 1001, 10):
        bar.progress(done, 1000, "episodes")
    assert log.getvalue().splitlines() == [f"{k * 100:,} of 1,000 episodes" for k in range(1, 11)]


def test_a_log_of_short_work_has_no_progress(log):
    begun("record").progress(1000, 1000, "episodes")
    assert log.getvalue() == ""


@pytest.mark.parametrize(
    ("name", "values", "series", "text"),
    [
        (
            "train",
            {"train/won": 0.5, "train/return/good": 1.5, "train/return/adversary": -2.0},
            "",
            "return good 1.50 adversary -2.00, won 50%",
        ),
        ("sweep", {"trial/quality": 0.98765, "trial/macs": 10.0}, "gru", "gru 0.988"),
        ("yours", {"a": 1.0, "b": 2.25, "c": 3.0, "d": 4.0}, "run", "run, a 1, b 2.25, c 3"),
    ],
)
def test_metrics_are_shown_beside_the_numbers(monkeypatch, log, name, values, series, text):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(CLOCK, lambda: next(clock))
    bar = begun(name)
    bar.metrics(1, values, series=series)
    bar.progress(1, 2, "things")
    assert log.getvalue() == f"1 of 2 things, {text}\n"


def test_lines_go_where_they_are_sent(log):
    lines: list[str] = []
    bar = begun("distill", write=lines.append)
    bar.message("ready")
    bar.progress(1, 2, "epochs")
    assert lines == ["ready", "1 of 2 epochs"]
    assert log.getvalue() == ""


def test_a_notebook_has_a_bar_in_its_page_where_it_can(log, monkeypatch):
    from tqdm import notebook

    made = []

    class Page:
        def __init__(self, total, unit, leave):
            made.append((total, unit))
            self.n, self.total = 0, total

        def update(self, count):
            self.n += count

        def close(self):
            made.append(self.n)

    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(notebook, "tqdm", Page)
    monkeypatch.setattr(notebook, "IProgress", object, raising=False)
    bar = begun("record")
    bar.progress(3, 10, "episodes")
    bar.end()
    assert made == [(10, "episodes"), 3]
    monkeypatch.setattr(notebook, "IProgress", None, raising=False)  # without ipywidgets: lines
    begun("distill").progress(1, 2, "epochs")
    assert log.getvalue() == "1 of 2 epochs\n"
