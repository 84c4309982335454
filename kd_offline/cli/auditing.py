"""``audit``: the return of a team under perturbations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show, table
from kd_offline.commands import command_text
from kd_offline.robustness.perturbations import PERTURBATIONS

if TYPE_CHECKING:
    from kd_offline.schemas.evaluation import Estimate
    from kd_offline.schemas.robustness import PerturbedPlay, RobustnessReport

_EXAMPLES = options.examples(
    "kd-offline audit run/",
    "kd-offline audit run/ --episodes 4000 --perturbations noise,dead,adversarial",
    "kd-offline audit run/ --perturbations noise:0.05,noise:0.1,noise:0.2 --json",
    "kd-offline audit run/ --seeds 0,1 --keep 0.95",
    "kd-offline audit fleet/ --against run/ --perturbations dead",
)


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(audit)


def audit(
    run: options.RunFolder,
    episodes: Annotated[
        int,
        typer.Option(
            callback=options.at_least(2),
            help="Number of episodes; every policy plays the same ones.",
        ),
    ] = 1000,
    seed: Annotated[
        int, typer.Option(callback=options.at_least(0), help="Seed of the evaluation episodes.")
    ] = 0,
    perturbations: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=f"NAME or NAME:STRENGTH, separated by commas: {', '.join(PERTURBATIONS)}.  "
            "[default: all, with one to three strengths each]",
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Distillation seeds: 0,1,2.  [default: all of the run]")
    ] = None,
    keep: Annotated[
        float, typer.Option(help="Share of the unperturbed gain that counts as tolerated.")
    ] = 0.9,
    quantile: Annotated[
        float,
        typer.Option(
            help="Quantile of the expert's returns below which an episode is a failure, in tasks "
            "without wins."
        ),
    ] = 0.1,
    expert: options.RecordedExpert = None,
    expert_recipe: options.ExpertRecipe = None,
    dataset: options.RunDataset = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Run to compare with, unperturbed, in the same episodes."),
    ] = None,
    environment: options.RecordedEnvironment = None,
    opponents: options.RecordedOpponents = None,
    batch: Annotated[
        int, typer.Option(callback=options.at_least(1), help="Episodes played at once.")
    ] = 1000,
    accelerator: options.Accelerator = None,
    threads: options.Threads = None,
    resume: options.Resume = False,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure the return under perturbations, and the failures that seeds have in common."""
    import torch

    from kd_offline.robustness.audit import audit as measure

    torch.set_num_threads(threads or 2)
    with resumable("finished perturbations are kept: run the same command with --resume"):
        report = measure(
            run,
            episodes=episodes,
            seed=seed,
            perturbations=None if perturbations is None else perturbations.split(","),
            seeds=None if seeds is None else options.integers(seeds, "--seeds"),
            keep=keep,
            quantile=quantile,
            expert=expert,
            expert_recipe=expert_recipe,
            dataset=dataset,
            against=against,
            environment=environment,
            opponents=opponents or (),
            batch=batch,
            accelerator=accelerator or "cpu",
            resume=resume,
            observers=options.observers(track),
        )
    emit(report) if json else _summary(report, run)


def _summary(report: RobustnessReport, run: Path) -> None:
    from kd_offline.reports.robustness import remarks

    show(
        f"greedy, {report.episodes:,} episodes; share of the gain over random play that is kept, "
        "with 95 % intervals"
    )
    head = ("perturbation", "expert keeps", "students keep", "change beyond the expert's")
    show(*table([head, *map(_row, (report.unperturbed, *report.plays))]))
    failures, errors = report.unperturbed.failures, report.errors
    if failures is not None:
        show(
            f"every seed fails in {_percent(failures.together.mean)} of the episodes; independent "
            f"seeds would in {_percent(failures.independent)}"
        )
    if errors is not None:
        show(
            f"every seed is wrong in {_percent(errors.together.mean)} of recorded decisions; "
            f"independent seeds would be in {_percent(errors.independent)}"
        )
    if (beside := report.comparison) is not None:
        show(
            f"beside {beside.run}: every seed fails in {_points(beside.together_change)} of the "
            f"episodes, mean return {_change(beside.returns_change)}"
        )
        if beside.errors_change is not None:
            show(f"  every seed is wrong in {_points(beside.errors_change)} of the decisions")
    for remark in remarks(report):
        say(f"  {remark}")
    say(f"written: {run / 'robustness.json'}")
    say(f"next: {command_text('report', run)}")


def _row(play: PerturbedPlay) -> tuple[str, ...]:
    name = play.perturbation if not play.unit else f"{play.perturbation} {play.strength:g}"
    kept = [None if score is None else score.kept for score in (play.expert, play.students)]
    return (name, *(_share(one) for one in kept), _change(play.beyond_expert))


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    low, high = (f"{100 * end:.1f}" for end in (estimate.low, estimate.high))
    return f"{_percent(estimate.mean)} [{low}, {high}]"


def _points(change: Estimate) -> str:
    low, high = (f"{100 * end:+.1f}" for end in (change.low, change.high))
    return f"{100 * change.mean:+.1f} points [{low}, {high}]"


def _change(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.mean:+.3g} [{estimate.low:+.3g}, {estimate.high:+.3g}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
