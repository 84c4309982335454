import errno

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from kd_offline.cli.failures import Commands, describe, resumable
from kd_offline.cli.options import Debug
from kd_offline.errors import BudgetError, MissingExtraError, StorageError, UnknownNameError


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
    def fail(debug: Debug = False) -> None:
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


def test_a_closed_pipe_is_no_failure_of_ours():
    app = app_that_fails(lambda: raise_(BrokenPipeError(errno.EPIPE, "pipe")))
    done = CliRunner().invoke(app, ["fail"])
    assert "error" not in done.stderr


def test_interrupting_says_what_is_kept():
    with (
        pytest.raises(Exception, match="interrupted; all is kept") as caught,
        resumable("all is kept"),
    ):
        raise KeyboardInterrupt
    assert describe(caught.value) == ("interrupted; all is kept", 1)
