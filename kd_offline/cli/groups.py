"""The commands in groups, as ``kd-offline --help`` shows them, and what surrounds every command."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info, get_command_name
from typer.models import CommandInfo

from kd_offline.cli.failures import Command, Commands
from kd_offline.cli.streams import reserved

GROUPS = {
    "Make experts and datasets": ("train", "record"),
    "Look at datasets": ("inspect", "verify", "diff", "card"),
    "Change datasets": (
        *("split", "filter", "merge", "append", "relabel-masks", "annotate", "convert"),
    ),
    "Share datasets": ("push", "pull", "pack", "sign", "croissant", "cache"),
    "Distil and measure students": (
        *("distill", "rerun", "sweep", "evaluate", "audit", "report", "bench"),
    ),
    "Go on with an environment": ("dagger", "adapt", "ppd"),
    "Deploy students": ("export", "profile", "deploy-check"),
    "What there is": ("envs", "hardware", "schema", "doctor"),
}


class GroupedCommands(Commands):
    """The commands, listed in the groups of :data:`GROUPS`; others come last."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of commands."""
        every = {name: one for name, one in self.commands.items() if not one.hidden}
        named = {name for names in GROUPS.values() for name in names}
        others = tuple(name for name in every if name not in named)
        width = max(map(len, every))
        limit = formatter.width - 6 - width
        for title, names in {**GROUPS, "Others": others}.items():
            shown = [name for name in names if name in every]
            rows = [(n.ljust(width), every[n].get_short_help_str(limit)) for n in shown]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class App(typer.Typer):
    """A set of commands that reserve stdout for their result, and are built when they are used.

    Reading the options of a function takes milliseconds, and a process runs one command.
    """

    def __init__(self, *, cls: type[TyperGroup] = TyperGroup, **options: Any) -> None:
        self._commands = _BuiltOnUse()
        super().__init__(cls=type(cls.__name__, (_Group, cls), {"own": self._commands}), **options)

    def command(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        """Register a command, see :meth:`typer.Typer.command`."""
        register = super().command(*arguments, **{"cls": Command, **options})

        def add(function: Any) -> Any:
            registered = register(_with_own_stdout(function))
            if self.registered_callback:  # without, Typer itself looks at what is registered
                self._commands.add(self.registered_commands.pop())
            return registered

        return add

    def callback(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        """Register what comes before a command, see :meth:`typer.Typer.callback`."""
        register = super().callback(*arguments, **options)
        return lambda function: register(_with_own_stdout(function))


class _BuiltOnUse(Mapping[str, Any]):
    """Commands by name; each is built when it is first asked for."""

    def __init__(self) -> None:
        self._infos: dict[str, CommandInfo] = {}
        self._built: dict[str, Any] = {}

    def add(self, info: CommandInfo) -> None:
        """Add a command as Typer registers it."""
        function: Any = info.callback
        self._infos[info.name or get_command_name(function.__name__)] = info

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = get_command_from_info(
                self._infos[name], pretty_exceptions_short=True, rich_markup_mode=None
            )
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)


class _Group(TyperGroup):
    """The commands of an app, ``own``, before the groups of commands in it."""

    own: _BuiltOnUse

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = ChainMap(self.commands, self.own)  # type: ignore[arg-type]


def _with_own_stdout(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with reserved():
            return function(*arguments, **options)

    return run
