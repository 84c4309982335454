"""The command ``kd-offline``. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from kd_offline import __version__
from kd_offline.cli import (
    auditing,
    conversion,
    datasets,
    deploying,
    describing,
    distillation,
    editing,
    evaluation,
    experts,
    exporting,
    information,
    measuring,
    online,
    recording,
    reports,
    rerunning,
    sharing,
    streams,
    sweeping,
    trust,
)
from kd_offline.cli.groups import App, GroupedCommands
from kd_offline.cli.options import Debug, examples
from kd_offline.cli.output import document

app = App(
    cls=GroupedCommands,
    name="kd-offline",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "kd-offline record mpe/simple_spread_v3 -o dataset.zarr",
        "kd-offline distill dataset.zarr -o run/ --mask limited",
        "kd-offline evaluate run/",
        "kd-offline report run/",
    ),
)


def _version(value: bool) -> None:
    if value:
        document(f"kd-offline {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Record multi-agent experts once, distil them into small students many times."""


experts.add(app)
recording.add(app)
datasets.add(app)
editing.add(app)
describing.add(app)
conversion.add(app)
distillation.add(app)
rerunning.add(app)
online.add(app)
sweeping.add(app)
evaluation.add(app)
auditing.add(app)
exporting.add(app)
deploying.add(app)
reports.add(app)
sharing.add(app)
trust.add(app)
measuring.add(app)
information.add(app)


def main() -> None:
    """Run the command line."""
    # Spinning threads on cores that other processes use cost a factor of five to ten; this has to
    # be said before PyTorch is imported, and changes no bits.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    streams.take_over()
    try:
        app(prog_name="kd-offline")
    finally:
        sys.stdout = sys.stderr  # what others print when the process ends is no document
