"""The commands in groups, as ``kd-offline --help`` shows them, and what surrounds every command."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

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
    """A set of commands that keep stdout for what was asked for."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        """Register a command, see :meth:`typer.Typer.command`."""
        register = super().command(*arguments, **{"cls": Command, **options})
        return lambda function: register(_with_own_stdout(function))

    def callback(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        """Register what comes before a command, see :meth:`typer.Typer.callback`."""
        register = super().callback(*arguments, **options)
        return lambda function: register(_with_own_stdout(function))


def _with_own_stdout(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with reserved():
            return function(*arguments, **options)

    return run
