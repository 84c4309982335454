"""Whatever foreign code raises ends as one error of ours that says who, where and what."""

import logging

import click
import pytest
import typer

from kd_offline.errors import EXIT_FAILED, KdOfflineError, UsageError, UserCodeError
from kd_offline.user_code import calling, close_all, closed_on_failure, plain


class Bare(BaseException):
    """An exception that is no Exception."""


class Silent(Exception):
    """One that cannot say what it is."""

    def __str__(self):
        raise Bare


class Sly(UserCodeError):
    """One of the user's that pretends to be ours."""

    exit_code = 0


RAISED = [
    ValueError("bad"),
    SystemExit(0),
    GeneratorExit(),
    Bare("bare"),
    StopIteration("end"),
    BrokenPipeError("pipe"),
    OSError(28, "full"),
    UsageError("ours"),
    Sly("sly"),
    typer.Exit(0),
    typer.Abort(),
    click.exceptions.Exit(0),
    click.ClickException("click"),
    RecursionError("deep"),
    MemoryError(),
    Silent(),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_becomes_one_sentence(error):
    with (
        pytest.raises(UserCodeError) as caught,
        calling("environment 'maze'", "step", agent="walker_0", step=3, slot=None),
    ):
        raise error
    said = str(caught.value)
    assert said.startswith("environment 'maze' failed in step (agent walker_0, step 3): ")
    assert type(error).__name__ in said
    assert "\n" not in said
    assert caught.value.__cause__ is error
    assert type(caught.value) is UserCodeError
    assert caught.value.exit_code == EXIT_FAILED
    assert isinstance(caught.value, KdOfflineError)


def test_an_interrupt_passes():
    with pytest.raises(KeyboardInterrupt), calling("environment 'maze'", "step"):
        raise KeyboardInterrupt


def test_the_innermost_border_speaks():
    with (
        pytest.raises(UserCodeError, match="failed in step") as caught,
        calling("expert 'x'", "act"),
        calling("environment 'maze'", "step"),
    ):
        raise ValueError
    assert "expert" not in str(caught.value)


def test_nothing_is_said_of_what_goes_well():
    with calling("environment 'maze'", "step"):
        pass


def test_messages_are_one_short_line_of_printable_text():
    with pytest.raises(UserCodeError) as caught, calling("expert 'x'", "act"):
        raise ValueError("first\nerror: forged\r\x1b[2J\u202e" + "x" * 10_000_000)
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 500
    assert "first error: forged" in said


def test_a_long_text_keeps_its_beginning_and_end():
    said = plain("begin " + "x" * 100_000 + " end")
    assert said.startswith("begin ")
    assert said.endswith(" end")
    assert len(said) < 320


class Door:
    """Something to close."""

    def __init__(self, error=None):
        self.error, self.closed = error, False

    def close(self):
        self.closed = True
        if self.error is not None:
            raise self.error


def test_everything_is_closed_and_failures_are_logged(caplog):
    doors = [Door(SystemExit(0)), Door(), Door(ValueError("stuck")), Door()]
    with caplog.at_level(logging.WARNING):
        close_all(doors)
    assert all(door.closed for door in doors)
    assert [record.getMessage() for record in caplog.records] == [
        "Door failed in close: SystemExit: 0; correct it",
        "Door failed in close: ValueError: stuck; correct it",
    ]


def test_what_was_opened_is_closed_if_something_fails_later_and_stays_open_otherwise():
    door, stuck = Door(), Door(ValueError("stuck"))
    with closed_on_failure(door):
        pass
    assert not door.closed
    for each in (door, stuck):
        with pytest.raises(KeyboardInterrupt), closed_on_failure(each):
            raise KeyboardInterrupt
        assert each.closed
