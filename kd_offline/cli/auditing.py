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
    from kd_offline.schemas.robustness import ModeScores, PerturbedPlay, RobustnessReport

_EXAMPLES = options.examples(
    "kd-offline audit run/",
    "kd-offline audit run/ --episodes 4000 --perturbations noise,dead,adversarial",
    "kd-offline audit run/ --perturbations noise:0.05,noise:0.1,noise:0.2 --json",
    "kd-offline audit run/ --seeds 0,1 --keep 0.95",
    "kd-offline audit run/ --modes greedy,sampled --episodes 10000 --on processes:4",
    "kd-offline audit run/ --export run/export-int8",
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
    modes: Annotated[
        str, typer.Option(help="How actions are chosen: greedy, sampled or both.")
    ] = "greedy",
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
        typer.Option(help="Run to compare with, whose students play the same episodes."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Export of the run to play instead of its students.")
    ] = None,
    engine: options.ExportEngine = None,
    environment: options.RecordedEnvironment = None,
    opponents: options.RecordedOpponents = None,
    batch: Annotated[
        int, typer.Option(callback=options.at_least(1), help="Episodes played at once.")
    ] = 1000,
    accelerator: options.Accelerator = None,
    threads: options.Threads = None,
    on: options.On = None,
    resume: options.Resume = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what an interrupted audit has finished.")
    ] = False,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure the return under perturbations, and the failures that seeds have in common."""
    import torch

    from kd_offline.robustness.audit import audit as measure
    from kd_offline.runs.folder import UNFINISHED_ROBUSTNESS

    torch.set_num_threads(threads or 2)
    place = run if export is None else export
    kept = "finished perturbations are kept: run the same command with --resume"
    with resumable(kept, place / UNFINISHED_ROBUSTNESS):
        report = measure(
            run,
            episodes=episodes,
            seed=seed,
            modes=modes.split(","),
            perturbations=None if perturbations is None else perturbations.split(","),
            seeds=None if seeds is None else options.integers(seeds, "--seeds"),
            keep=keep,
            quantile=quantile,
            expert=expert,
            expert_recipe=expert_recipe,
            dataset=dataset,
            against=against,
            export=export,
            engine=engine,
            environment=environment,
            opponents=opponents or (),
            batch=batch,
            accelerator=accelerator or "cpu",
            on=on,
            resume=resume,
            overwrite=overwrite,
            observers=options.observers(track),
        )
    emit(report) if json else _summary(report, run, place)


def _summary(report: RobustnessReport, run: Path, place: Path) -> None:
    from kd_offline.reports.robustness import remarks

    for mode, scores in report.modes.items():
        _mode(report, mode, scores)
    errors, beside = report.errors, report.comparison
    if errors is not None:
        show(
            f"every seed is wrong in {_percent(errors.together.mean)} of recorded decisions; "
            f"independent seeds would be in {_percent(errors.independent)}"
        )
    if beside is not None and beside.errors_change and beside.wrong_change:
        show(
            f"  beside {beside.run}: {_points(beside.errors_change)}; one seed is wrong in "
            f"{_points(beside.wrong_change)}"
        )
    for remark in remarks(report):
        say(f"  {remark}")
    say(f"written: {place / 'robustness.json'}")
    if report.export is None:
        say(f"next: {command_text('report', run)}")


def _mode(report: RobustnessReport, mode: str, scores: ModeScores) -> None:
    played = f", students as {report.export}" if report.export else ""
    show(
        f"{mode}{played}, {report.episodes:,} episodes; share of the gain over random play that is "
        "kept, with 95 % intervals"
    )
    head = ("perturbation", "expert keeps", "students keep", "change beyond the expert's")
    plays = (scores.unperturbed, *scores.plays)
    show(*table([head, *map(_row, plays)]))
    failures = scores.unperturbed.failures
    if failures is not None:
        show(
            f"every seed fails in {_percent(failures.together.mean)} of the episodes; independent "
            f"seeds would in {_percent(failures.independent)}"
        )
    compared = [play for play in plays if play.comparison is not None]
    if report.comparison is not None and compared:
        show(f"beside {report.comparison.run}, share of failed episodes in points, and mean return")
        head = ("perturbation", "every seed fails", "one seed fails", "mean return")
        show(*table([head, *map(_beside, compared)]))


def _beside(play: PerturbedPlay) -> tuple[str, ...]:
    beside = play.comparison
    assert beside is not None  # noqa: S101 - rows without one are left out
    changes = (_points(beside.together_change), _points(beside.failed_change))
    return (_name(play), *changes, _change(beside.returns_change))


def _name(play: PerturbedPlay) -> str:
    return play.perturbation if not play.unit else f"{play.perturbation} {play.strength:g}"


def _row(play: PerturbedPlay) -> tuple[str, ...]:
    kept = [None if score is None else score.kept for score in (play.expert, play.students)]
    return (_name(play), *(_share(one) for one in kept), _change(play.beyond_expert))


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
