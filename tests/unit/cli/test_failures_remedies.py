"""What to do after an error, in Python and in the options of the command that failed."""

import json
import pickle

import pytest
import typer
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.cli.failures import spelled
from kd_offline.cli.groups import App, GroupedCommands
from kd_offline.cli.options import Overwrite
from kd_offline.errors import BudgetError, KdOfflineError, Remedy, StorageError, UnknownNameError

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def on(command, remedy):
    return spelled(remedy, COMMANDS[command], COMMANDS)


@pytest.mark.parametrize(
    ("remedy", "command", "python", "typed"),
    [
        (Remedy("pass", overwrite=True), "distill", "pass overwrite=True", "pass --overwrite"),
        (
            Remedy("pass", "with the recorded one", expert=...),
            *("evaluate", "pass expert with the recorded one"),
            "pass --expert with the recorded one",
        ),
        (
            Remedy("pass", environment="pettingzoo/a:b"),
            *("evaluate", "pass environment='pettingzoo/a:b'", "pass --environment pettingzoo/a:b"),
        ),
        (
            Remedy("allow more with", environment_kwargs={"games": 4, "fast": True}),
            *("record", "allow more with environment_kwargs={'games': 4, 'fast': True}"),
            "allow more with --env games=4 --env fast=true",
        ),
        (
            Remedy("set", settings={"memory_mb": ...}),
            *("distill", "set settings['memory_mb']", "set --memory-mb"),
        ),
        (
            Remedy("set", settings={"memory_mb": ...}),
            *("sweep", "set settings['memory_mb']", "set --set memory_mb=VALUE"),
        ),
        (
            Remedy("pass", settings={"kickstart.teacher": "my expert"}),
            *("train", "pass settings={'kickstart.teacher': 'my expert'}"),
            "pass --teacher 'my expert'",
        ),
        (
            Remedy("drop them with", duplicates="drop"),
            *("merge", "drop them with duplicates='drop'", "drop them with --drop-duplicates"),
        ),
        (
            Remedy("continue it with", operation="record", output="d.zarr", resume=True),
            *("distill", "continue it with record(output='d.zarr', resume=True)"),
            "continue it with kd-offline record --output d.zarr --resume",
        ),
        (
            Remedy("run", operation="train_recipe", environment="a:b"),
            *("evaluate", "run train_recipe(environment='a:b')", "run kd-offline train a:b"),
        ),
        (Remedy("give", share=False), "train", "give share=False", "give --separate"),
        (Remedy("pass", dataset=...), "distill", "pass dataset", "pass DATASET"),
        (
            Remedy("choose another folder"),
            "train",
            "choose another folder",
            "choose another folder",
        ),
    ],
)
def test_a_remedy_reads_as_python_and_as_what_one_types(remedy, command, python, typed):
    assert str(remedy) == python
    assert on(command, remedy) == typed


def test_what_a_command_cannot_do_is_not_advised():
    assert on("evaluate", Remedy("pass", overwrite=True)) is None
    assert on("record", Remedy("set", settings={"memory_mb": 5})) is None


def test_an_error_keeps_its_remedies_on_its_way_out_of_another_process():
    error = StorageError("'x' exists", Remedy("choose another"), Remedy("pass", overwrite=True))
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert str(each) == "'x' exists: choose another or pass overwrite=True"
    assert str(BudgetError("too small")) == "too small"
    assert str(KdOfflineError()) == ""
    assert UnknownNameError("mask", "x", ["y"]).remedies == ()


def test_an_error_of_a_plug_in_may_have_any_remedies():
    error = StorageError("no room", "free some", Remedy("ask", operation="nobody", who="me"))
    assert str(error) == "no room: free some or ask nobody(who='me')"
    command = COMMANDS["distill"]
    assert error.sentence(lambda remedy: spelled(remedy, command, COMMANDS)) == str(error)


def failing(overwrite: Overwrite = False, json: bool = False) -> None:
    both = Remedy("choose another path"), Remedy("continue it with", resume=True)
    msg = "'a{overwrite}' exists"
    raise StorageError(msg, *both, Remedy("pass", overwrite=True))


def test_the_command_line_names_the_options_that_the_command_has():
    made = App(cls=GroupedCommands)
    made.command()(failing)
    made.command()(lambda: None)
    done = CliRunner().invoke(made, ["failing", "--json"])
    sentence = "'a{overwrite}' exists: choose another path or pass --overwrite"
    assert (done.exit_code, done.stderr) == (1, f"error: {sentence}\n")
    assert json.loads(done.stdout)["error"]["message"] == sentence
