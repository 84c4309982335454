"""``sweep``: distil many students of one dataset and find the Pareto front."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import completion, options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show, table

if TYPE_CHECKING:
    from kd_offline.schemas.sweep import SweepReport


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(
        epilog=options.examples(
            "kd-offline sweep dataset.zarr -o sweep/ --trials 40",
            "kd-offline sweep dataset.zarr -o sweep/ --trials 80 --on processes:4",
            "kd-offline sweep dataset.zarr -o sweep/ --on ray --storage postgresql://me@db/sweeps",
            "kd-offline sweep dataset.zarr -o sweep/ --mask limited --widths 8,16,32 --arch gru",
            "kd-offline sweep dataset.zarr -o sweep/ --judge agreement --device mine.toml",
        )
    )(sweep)


def sweep(
    dataset: options.Dataset,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the sweep.")] = Path(
        "sweep"
    ),
    trials: Annotated[
        int, typer.Option(callback=options.at_least(1), help="Total number of trials.")
    ] = 24,
    on: options.On = None,
    storage: Annotated[
        str | None,
        typer.Option(
            callback=options.hide_password,
            envvar="KD_OFFLINE_STORAGE",
            help="Database of the trials, for several machines: sqlite:///FILE or "
            "postgresql://USER@HOST/DATABASE.  [default: a journal in the folder]",
        ),
    ] = None,
    seed: options.Seed = 0,
    arch: Annotated[
        str,
        typer.Option(
            help="Architectures: gru, mlp, low-rank, or a plug-in's; several with commas."
        ),
    ] = "gru,mlp,low-rank",
    widths: Annotated[
        str, typer.Option(help="Widths to choose from for each agent.")
    ] = "8,16,24,32,48,64",
    precision: Annotated[
        str, typer.Option(help="Precisions: fp32, int8; several with commas.")
    ] = "fp32,int8",
    profile: Annotated[
        str,
        typer.Option(
            "--device",
            autocompletion=completion.devices,
            help="Device that the time is predicted for.",
        ),
    ] = "stm32f4",
    judge: Annotated[
        str,
        typer.Option(
            help="retention (in the environment), agreement (from the file), or auto: retention "
            "where environment and expert are here."
        ),
    ] = "auto",
    episodes: Annotated[
        int,
        typer.Option(callback=options.at_least(1), help="Number of episodes to evaluate a trial."),
    ] = 1000,
    environment: options.RecordedEnvironment = None,
    expert: options.RecordedExpert = None,
    expert_recipe: options.ExpertRecipe = None,
    method: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.one_of(*completion.METHODS), help="Method, as for distill."
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(autocompletion=completion.masks, help="Stored mask.  [default: full]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    accelerator: options.Accelerator = None,
    recipe: options.RecipeFile = None,
    settings: options.Settings = None,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Search for students with a high quality and a low cost.

    Every trial is a run folder. The same command continues a sweep, and other processes can join.
    """
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.sweeps.sweep import PLAN
    from kd_offline.sweeps.sweep import sweep as search

    places = {"optimisation.epochs": epochs, "accelerator": accelerator}
    given = {place: value for place, value in places.items() if value is not None}
    chosen = distill_recipe(
        method=method, mask=mask, file=recipe, settings=given | options.assignments(settings)
    )
    kept = f"finished trials are in {output}: run the same command again"
    with resumable(kept, output / PLAN):
        report = search(
            dataset,
            output,
            trials=trials,
            on=on,
            storage=storage,
            seed=seed,
            recipe=chosen,
            architectures=arch.split(","),
            widths=options.integers(widths, "--widths"),
            precisions=precision.split(","),
            profile=profile,
            judge=judge,
            episodes=episodes,
            environment=environment,
            expert=expert,
            expert_recipe=expert_recipe,
            observers=options.observers(track),
        )
    emit(report) if json else _show(report, output)


def _show(report: SweepReport, output: Path) -> None:
    from kd_offline.reports.formatting import agreement_of, percent, significant

    head = ("front", "run", "network", "weights", "widths", *report.objectives)
    rows = [
        (
            "*" if point.front else "",
            point.run,
            point.architecture,
            point.precision,
            ",".join(map(str, point.widths)),
            percent(point.quality, 2),
            *(
                significant(point.figures[name].value)
                for name in ("macs", "flash_kb", "latency_us")
            ),
        )
        for point in report.points
    ]
    show(*table([head, *rows]))
    if report.plan.judge == "agreement":
        show(f"agreement is {agreement_of(report)}")
    say(f"time predicted for {report.plan.profile}; costs are sums over agents")
    say(f"written: {output / 'sweep.html'}")
