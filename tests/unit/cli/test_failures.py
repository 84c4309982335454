import errno
import warnings

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from kd_offline import errors
from kd_offline.cli.failures import Commands, describe, resumable
from kd_offline.cli.options import Debug, Json
from kd_offline.cli.streams import ReaderLeftError
from kd_offline.errors import (
    BudgetError,
    MissingExtraError,
    StorageError,
    UnknownNameError,
    UserCodeError,
)
from kd_offline.schemas.outputs import ErrorOutput
from kd_offline.user_code import calling


class Widths(BaseModel):
    hidden: int


def validation_error():
    Widths.model_validate({"hidden": "wide"})


def raise_(error):
    raise error


FAILURES = {
    "unknown": (lambda: raise_(UnknownNameError("mask", "ful", ["full"])), 2, "did you mean"),
    "extra": (lambda: raise_(MissingExtraError("jinja2", "report", "a report")), 2, "[report]"),
    "storage": (lambda: raise_(StorageError("the disk is full")), 1, "the disk is full"),
    "budget": (lambda: raise_(BudgetError("too slow")), 3, "too slow"),
    "pydantic": (validation_error, 2, "hidden is 'wide'"),
    "full": (lambda: raise_(OSError(errno.ENOSPC, "No space left", "f")), 1, "free space"),
    "read-only": (lambda: raise_(OSError(errno.EROFS, "Read-only", "f")), 1, "another folder"),
    "ctrl-c": (lambda: raise_(KeyboardInterrupt()), 1, "interrupted"),
    "bug": (lambda: raise_(RuntimeError("oh\nno")), 1, "unexpected RuntimeError: oh no;"),
    "value": (lambda: raise_(ValueError()), 1, "unexpected ValueError: no message"),
}


def app_that_fails(how):
    app = typer.Typer(cls=Commands, rich_markup_mode=None)

    @app.callback()
    def main() -> None:
        """Fail."""

    @app.command()
    def fail(number: int = 0, json: Json = False, debug: Debug = False) -> None:
        how()

    return app


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_is_one_sentence_and_an_exit_code(name):
    how, code, words = FAILURES[name]
    done = CliRunner().invoke(app_that_fails(how), ["fail"])
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", FAILURES)
def test_debug_adds_the_traceback_and_keeps_the_exit_code(name):
    how, code, words = FAILURES[name]
    done = CliRunner().invoke(app_that_fails(how), ["fail", "--debug"])
    assert done.exit_code == code
    assert "Traceback" in done.stderr
    assert words in done.stderr


def test_a_reader_that_left_is_no_failure_of_ours():
    done = CliRunner().invoke(app_that_fails(lambda: raise_(ReaderLeftError())), ["fail"])
    assert (done.exit_code, done.output) == (141, "")


def test_a_pipe_that_breaks_elsewhere_is_a_failure():
    app = app_that_fails(lambda: raise_(BrokenPipeError(errno.EPIPE, "pipe")))
    done = CliRunner().invoke(app, ["fail"])
    assert done.exit_code == 1
    assert "unexpected BrokenPipeError" in done.stderr


@pytest.mark.parametrize("name", FAILURES)
def test_with_json_the_error_is_the_document(name):
    how, code, words = FAILURES[name]
    done = CliRunner().invoke(app_that_fails(how), ["fail", "--json"])
    error = ErrorOutput.model_validate_json(done.stdout).error
    assert (done.exit_code, error.exit_code) == (code, code)
    assert done.stderr == f"error: {error.message}\n"
    assert words in error.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fail", "--jso"], "no such option: --jso"),
        (["fial"], "no such command 'fial'. Did you mean 'fail'?"),
        (["fail", "more"], "unexpected extra argument"),
        (["fail", "--number", "one"], "invalid value for '--number'"),
    ],
)
@pytest.mark.parametrize("json", [False, True])
def test_what_the_parser_refuses_is_one_sentence_too(words, said, json):
    app = app_that_fails(lambda: None)
    done = CliRunner().invoke(app, [*words, *["--json"] * json], prog_name="kd-offline")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert done.stderr.rstrip().endswith("--help")
    if json:
        error = ErrorOutput.model_validate_json(done.stdout).error
        assert (error.type, error.exit_code) == ("UsageError", 2)
    else:
        assert done.stdout == ""


def test_a_message_from_outside_stays_one_line_without_control_characters():
    app = app_that_fails(lambda: raise_(StorageError("bad\x1b[2J \u2028name\x9b")))
    for words in (["fail"], ["fail", "--json"], ["fail", "--debug"]):
        done = CliRunner().invoke(app, words)
        assert not {"\x1b", "\u2028", "\x9b"} & set(done.output)


def test_our_own_warnings_are_said_once_whatever_the_filters_are(monkeypatch):
    class OldDocumentWarning(UserWarning):
        pass

    monkeypatch.setattr(errors, "OldDocumentWarning", OldDocumentWarning, raising=False)

    def warn():
        for _ in range(2):
            warnings.warn("no digest\nhere", OldDocumentWarning, stacklevel=1)

    done = CliRunner().invoke(app_that_fails(warn), ["fail"])
    assert (done.exit_code, done.stderr) == (0, "warning: no digest here\n")


def test_interrupting_names_nothing_that_is_not_there(tmp_path):
    with (
        pytest.raises(Exception, match="interrupted; nothing was begun: run the same") as caught,
        resumable("all is in run", tmp_path / "run" / "run.json"),
    ):
        raise KeyboardInterrupt
    assert describe(caught.value)[1] == 1


@pytest.mark.parametrize("begun", [True, False])
def test_a_failure_of_user_code_says_what_is_kept_and_where_it_is(tmp_path, begun):
    if begun:
        (tmp_path / "run.json").touch()
    with (
        pytest.raises(UserCodeError) as caught,
        resumable("all is in run", tmp_path / "run.json"),
        calling("environment 'maze'", "step"),
    ):
        raise SystemExit(0)
    sentence, code = describe(caught.value)
    assert sentence.startswith("environment 'maze' failed in step: SystemExit: 0; correct it")
    assert ("all is in run" in sentence) == begun
    assert sentence.endswith("; --debug shows where in its code")
    assert code == 1
    assert isinstance(caught.value.__cause__, SystemExit)


def test_interrupting_says_what_is_kept():
    with (
        pytest.raises(Exception, match="interrupted; all is kept") as caught,
        resumable("all is kept"),
    ):
        raise KeyboardInterrupt
    assert describe(caught.value) == ("interrupted; all is kept", 1)
