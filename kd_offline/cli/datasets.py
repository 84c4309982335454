"""``inspect`` and ``verify``: what a dataset holds and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.output import emit, say
from kd_offline.errors import EXIT_FAILED

Dataset = Annotated[Path, typer.Argument(help="Expert buffer, such as dataset.zarr.")]


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(
        epilog=options.examples(
            "kd-offline inspect dataset.zarr", "kd-offline inspect dataset.zarr --json"
        )
    )(inspect)
    app.command(
        epilog=options.examples(
            "kd-offline verify dataset.zarr", "kd-offline verify dataset.zarr --quick --json"
        )
    )(verify)


def inspect(dataset: Dataset, json: options.Json = False, debug: options.Debug = False) -> None:
    """Show what a dataset holds."""
    from kd_offline.datasets.reader import ExpertBuffer
    from kd_offline.datasets.summary import render, summarise

    buffer = ExpertBuffer.open(dataset)
    if json:
        emit(summarise(buffer))
    else:
        typer.echo(render(buffer))


def verify(
    dataset: Dataset,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare the files, decode no values.")
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check that a dataset is whole.

    Every file, checksum, content digest and rule of the format; exit code 1 where one fails.
    """
    from kd_offline.datasets.integrity import verify as check

    report = check(dataset, quick=quick)
    if json:
        emit(report)
    elif report.ok:
        typer.echo("whole: every check passed" if not quick else "whole: the files are right")
    else:
        for problem in report.problems:
            typer.echo(f"{problem.where}: {problem.what}")
        say(f"error: {len(report.problems)} problems in {dataset}: get a fresh copy")
    if not report.ok:
        raise typer.Exit(EXIT_FAILED)
