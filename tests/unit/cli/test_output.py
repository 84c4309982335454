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


@pytest.mark.parametrize("quiet", [False, True])
def test_the_bar_of_a_command_goes_to_stderr_unless_it_is_quiet(monkeypatch, capsys, quiet):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    if quiet:
        output.be_quiet()
    shown = output.terminal()
    shown.progress(5, 10, "steps")
    shown.end()
    assert ("/10" in stream.getvalue()) is not quiet
    assert capsys.readouterr().out == ""


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
