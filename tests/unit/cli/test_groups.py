import inspect
import re

import pytest
import typer.main
from typer.testing import CliRunner

from kd_offline.cli import groups
from kd_offline.cli.app import app
from kd_offline.cli.groups import GROUPS

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def leaves(commands):
    for name, command in commands.items():
        yield name, command
        yield from leaves(getattr(command, "commands", {}))


def test_every_command_is_in_one_group():
    named = [name for names in GROUPS.values() for name in names]
    assert sorted(named) == sorted(COMMANDS)


def test_help_shows_the_groups():
    text = CliRunner().invoke(app, ["--help"], prog_name="kd-offline").stdout
    for title, names in GROUPS.items():
        section = text.partition(f"{title}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^  (\S+)", section, re.MULTILINE) == list(names)
    assert CliRunner().invoke(app, [], prog_name="kd-offline").stdout == text


@pytest.mark.parametrize("name", [name for name, _ in leaves(COMMANDS) if name != "bench"])
def test_every_command_can_be_quiet(name):
    command = dict(leaves(COMMANDS))[name]
    options = {word for parameter in command.params for word in parameter.opts}
    assert {"--quiet", "-q", "--debug"} <= options
    assert inspect.getdoc(command.callback)


def test_the_old_name_of_an_option_still_works():
    done = CliRunner().invoke(
        app, ["report", "no-run", "--profile", "stm32f4"], prog_name="kd-offline"
    )
    assert done.stderr.startswith("note: --profile is called --device now\nerror: no-run is not")
    assert "--profile" not in CliRunner().invoke(app, ["report", "--help"]).stdout


def test_only_the_command_that_is_run_is_built(monkeypatch):
    built, ran, build = [], [], typer.main.get_command_from_info

    def noted(info, **options):
        built.append(info.callback.__name__)
        return build(info, **options)

    def first(number: int = 1) -> None:
        ran.append(number)

    def second() -> None:
        """Not run."""

    monkeypatch.setattr(groups, "get_command_from_info", noted)
    app = groups.App()
    app.callback()(lambda: None)
    for function in (first, second):
        app.command()(function)
    for _ in range(2):
        assert CliRunner().invoke(app, ["first", "--number", "3"]).exit_code == 0
    assert (built, ran) == (["first"], [3, 3])
    assert "second" in CliRunner().invoke(app, ["--help"]).stdout
