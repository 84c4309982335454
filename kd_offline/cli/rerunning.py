"""``rerun``: repeat a distillation and compare the results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.distillation import command_line
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, show, terminal
from kd_offline.errors import EXIT_FAILED

_EXAMPLES = options.examples("kd-offline rerun run/", "kd-offline rerun run/ --json")


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(rerun)


def rerun(
    run: options.RunFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder.  [default: RUN-rerun]")
    ] = None,
    dataset: options.RunDataset = None,
    profile: Annotated[
        str | None,
        typer.Option("--device", help="Hardware profile of the budget, if it is a .toml file."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="The run whose students it started from, if it was moved."),
    ] = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Repeat a distillation and compare the results.

    With the same kind of processor, threads and versions the weights have to agree bit for bit.
    Otherwise held-out metrics, if there are any, have to agree within a tolerance. If they do not
    agree, the exit code is 1.
    """
    from kd_offline.distillation.rerun import rerun as repeat

    kept = "what was repeated so far is kept: run the same command with --resume"
    with resumable(kept):
        report = repeat(
            run,
            output,
            dataset=dataset,
            profile=profile,
            start=start,
            resume=resume,
            overwrite=overwrite,
            command=command_line(),
            observers=[terminal()],
        )
    if json:
        emit(report)
    elif report.ok:
        show("the same, bit for bit" if report.identical else "the same within the tolerance")
    else:
        show("not the same")
    if not json and report.compared_by == "bits":
        show("nothing was held out, so nothing but the weights can be compared")
    for difference in () if json else report.platform_differences:
        show(f"  another {difference}")
    if not report.ok:
        raise typer.Exit(EXIT_FAILED)
