import ast
import io
import json
import sys
from pathlib import Path

import pytest

from kd_offline.cli import output
from kd_offline.schemas.outputs import RecordOutput

CLI = Path(output.__file__).parent


@pytest.fixture(autouse=True)
def a_command():
    output.begin(json=False)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "shown"),
    [(Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)],
    ids=["terminal", "quiet", "file"],
)
def test_a_bar_goes_to_a_terminal_on_stderr_only(monkeypatch, capsys, stream, quiet, shown):
    monkeypatch.setattr(sys, "stderr", stream)
    with output.bar(10, "steps", quiet) as bar:
        bar.update(5)
        bar.close()
    assert ("/10" in stream.getvalue()) is shown
    assert capsys.readouterr().out == ""


def test_a_log_has_a_line_for_every_epoch(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with output.bar(2, "epochs", False, each=True) as bar:
        for epoch in range(2):
            bar.describe(f"seed 0, train kl 0.{epoch}")
            bar.update()
    assert log.getvalue() == (
        "1 of 2 epochs, seed 0, train kl 0.0\n2 of 2 epochs, seed 0, train kl 0.1\n"
    )


def test_a_log_of_long_work_has_a_line_for_every_tenth(monkeypatch):
    log, clock = io.StringIO(), iter(range(0, 10**6, 3))
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with output.bar(1000, "episodes", False) as bar:
        for _ in range(100):
            bar.update(10)
    assert log.getvalue().splitlines() == [f"{k * 100:,} of 1,000 episodes" for k in range(1, 11)]


def test_a_log_of_short_work_has_no_progress(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with output.bar(1000, "episodes", False) as bar:
        bar.update(1000)
    assert log.getvalue() == ""


def test_a_table_is_aligned_and_has_no_trailing_blanks():
    rows = output.table([("a", "bc", ""), ("long", "b", "x"), ("\n", "\x1b", "")])
    assert rows == ["a     bc", "long  b     x", "\\n    \\x1b"]


def test_every_argument_is_one_line_without_control_characters(capsys):
    output.show("a\x1b[2J\nwhole: every check passed", "b")
    output.say("c\rnext: rm -rf /")
    shown = capsys.readouterr()
    assert shown.out == "a\\x1b[2J\\nwhole: every check passed\nb\n"
    assert shown.err == "c\\rnext: rm -rf /\n"


def test_quiet_leaves_documents_and_errors(capsys):
    output.be_quiet()
    output.say("note")
    output.show("figure")
    output.warn("warning")
    output.document("{}")
    output.say_error("gone wrong")
    assert capsys.readouterr() == ("{}\n", "error: gone wrong\n")


def test_a_json_document_is_ascii(capsys):
    made = RecordOutput(
        id=f"sha256:{'0' * 64}", path="é\x9b\u202e中.zarr", episodes=1, steps=1, bytes=1, seconds=1
    )
    output.emit(made)
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text)["path"] == made.path


def test_a_warning_is_one_sentence_and_said_once(capsys):
    for _ in range(2):
        output.warn(UserWarning("old\nand without a digest\x1b"), UserWarning, "file.py", 1)
    assert capsys.readouterr() == ("", "warning: old and without a digest\\x1b\n")


def test_a_hint_quotes_paths_with_spaces():
    assert output.command_text("evaluate", Path("my run")) == "kd-offline evaluate 'my run'"


def test_nothing_prints_past_the_functions_that_make_text_safe():
    """Only ``streams.py`` writes, and only ``output.py`` and the errors ask it to."""
    for path in CLI.glob("*.py"):
        if path.name == "streams.py":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        names = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        assert not names & {"print", "typer.echo", "typer.secho", "sys.stdout.write"}, path
        if path.name not in ("output.py", "failures.py"):
            assert not names & {"streams.write", "streams.note"}, path
