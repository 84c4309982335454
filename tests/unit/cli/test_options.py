from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import typer

from kd_offline.cli import options
from kd_offline.cli.app import app
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.execution import processes


@pytest.mark.parametrize(
    ("text", "value"), [(None, None), ("5", 5), ("0,1,2", (0, 1, 2)), ("7,", (7,)), ("1", 1)]
)
def test_seeds(text, value):
    assert options.seeds(text) == value


@pytest.mark.parametrize("text", ["0", "-2"])
def test_no_seeds(text):
    with pytest.raises(UsageError, match="give 1 or more"):
        options.seeds(text)


@pytest.mark.parametrize(
    ("text", "value"), [(None, None), ("auto", "auto"), ("32", 32), ("32,16,16", (32, 16, 16))]
)
def test_hidden(text, value):
    assert options.hidden(text) == value


@pytest.mark.parametrize("text", ["wide", "32,x", "", "3.5"])
def test_what_is_no_width(text):
    with pytest.raises(UsageError, match="not a list of whole numbers"):
        options.hidden(text)


def test_assignments():
    assert options.assignments(["a=1", "b.c=x"]) == {"a": 1, "b.c": "x"}
    assert options.assignments(None) == {}


def test_recipes_are_found_by_name_or_path(tmp_path):
    class Context:
        info_name = "distill"

    context = Context()
    assert options.find_recipe(context, "lh-a").name == "lh-a.toml"
    assert options.find_recipe(context, "mine.toml") == Path("mine.toml")
    assert options.find_recipe(context, None) is None
    with pytest.raises(UnknownNameError, match="did you mean 'lh-a'"):
        options.find_recipe(context, "lh_a")
    context.info_name = "train"
    assert {"mask-ceiling", "spread-default"} <= set(options.shipped_recipes("train"))
    with pytest.raises(UnknownNameError, match="unknown recipe"):
        options.find_recipe(context, "lh-a")


def test_every_command_with_a_place_says_what_its_workers_load():
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    with_place = {
        name for name, command in commands.items() if "on" in {each.name for each in command.params}
    }
    assert set(options.OPERATIONS) == with_place
    assert all(find_spec(module) for module in options.OPERATIONS.values())


def test_workers_do_not_begin_to_load_where_only_names_are_completed(monkeypatch):
    begun: list[object] = []
    monkeypatch.setattr(processes, "prepare", begun.append)
    command = click.Command("record")
    for completing in (True, False):
        context = typer.Context(command, resilient_parsing=completing)
        assert options.begin_workers(context, "processes:2") == "processes:2"
        assert len(begun) == (not completing)
