"""``export``: write students as files that run on small machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show, terminal

if TYPE_CHECKING:
    from kd_offline.schemas.export import Comparison, ExportManifest

_EXAMPLES = options.examples(
    "kd-offline export run/",
    "kd-offline export run/ --to c -o firmware/students --measure",
    "kd-offline export run/ --precision int8 --agreement 0.98 --json",
)


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(export)


def export(
    run: options.RunFolder,
    to: Annotated[
        str,
        typer.Option(
            help="Formats: onnx, c, torch or all; several with commas.", metavar="FORMATS"
        ),
    ] = "all",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder.  [default: RUN/export, RUN/export-int8 for int8]"
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Precision of the weights: fp32 or int8.")
    ] = "fp32",
    seed_of_run: Annotated[
        int | None,
        typer.Option(help="Seed of the team to export.  [default: the run's first seed]"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="The run's dataset.  [default: the local path that the run states]"),
    ] = None,
    episodes: Annotated[int, typer.Option(help="Largest number of episodes to replay.")] = 400,
    least_agreement: Annotated[
        float | None,
        typer.Option(
            "--agreement", help="Share of recorded actions that int8 has to keep.  [default: 0.95]"
        ),
    ] = None,
    microcontrollers: Annotated[
        bool,
        typer.Option("--measure", help="Also run the C on emulated Cortex-M4F and M7 cores."),
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Export students as ONNX, C99 and PyTorch.

    Nothing is written unless every export repeats its student on whole recorded episodes.
    """
    from kd_offline.exports.export import export as write
    from kd_offline.schemas.outputs import ExportOutput

    with resumable("nothing was written: run the same command again"):
        manifest = write(
            run,
            output,
            to=to.split(","),
            precision=precision,
            seed=seed_of_run,
            dataset=dataset,
            episodes=episodes,
            least_agreement=least_agreement,
            microcontrollers=microcontrollers,
            overwrite=overwrite,
            observers=[terminal()],
        )
    if json:
        emit(ExportOutput.of(manifest, str(_place(run, output, precision))))
    else:
        _summary(manifest, _place(run, output, precision))


def _place(run: Path, output: Path | None, precision: str) -> Path:
    from kd_offline.exports.export import place

    return place(run, output, precision)


def _summary(manifest: ExportManifest, folder: Path) -> None:
    from kd_offline.reports.formatting import replayed

    gate = manifest.gate
    say(
        f"replayed {gate.steps:,} steps of {gate.episodes:,} {replayed(gate)}, "
        f"logits within {gate.tolerance:g}"
    )
    for name, found in gate.engines.items():
        say(f"  {name:6} {_words(found)}")
    if manifest.precision != "fp32":
        say(f"{manifest.precision} against the trained students: {_words(gate.precision)}")
    for agent in manifest.agents:
        zeros = f"; C alone does without {agent.zeros:,} zeros" if agent.zeros else ""
        say(
            f"  {agent.agent}: {agent.parameter_bytes:,} bytes of weights, {agent.macs:,} MACs"
            f"{zeros}"
        )
    for core in manifest.microcontrollers:
        say(
            f"  {core.symbol} on {core.core}: {core.flash_bytes:,} bytes of flash, "
            f"{core.ram_bytes:,} of RAM, instruction count {core.instructions_per_step:,.0f} a step"
        )
    show(folder)


def _words(found: Comparison) -> str:
    same = "nobody had a choice of actions"
    if found.agreement is not None:
        same = f"{100 * found.agreement:.2f} % of actions equal"
    return f"{same}, largest logit error {found.logit_error:.2g}, mean {found.mean_logit_error:.2g}"
