"""``dagger``, ``ppd`` and ``adapt``: continue students with an environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import completion, options
from kd_offline.cli.distillation import command_line
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show, table

if TYPE_CHECKING:
    from kd_offline.schemas.online import AdaptationReport, DaggerReport, Students

_DAGGER = options.examples(
    "kd-offline dagger run/ -o dagger/ --rounds 3 --episodes 4000",
    "kd-offline dagger run/ -o dagger/ --expert expert/ --epochs 8",
    "kd-offline dagger run/ -o dagger/ --resume",
)
_ADAPT = options.examples(
    "kd-offline adapt run/ windy.zarr -o adapted/",
    "kd-offline adapt run/ dataset.zarr -o adapted/ --mask paper --epochs 8",
    "kd-offline adapt run/ new.zarr -o adapted/ --expert old/ --new-expert new/",
)
_PPD = options.examples(
    "kd-offline ppd run/ -o further/ --frames 1000000",
    "kd-offline ppd run/ -o further/ --expert expert/ --set kickstart.weight=0.5",
    "kd-offline ppd run/ -o further/ --resume",
)
_Epochs = Annotated[
    int | None, typer.Option(callback=options.at_least(1), help="Passes over the episodes.")
]


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_DAGGER)(dagger)
    app.command(epilog=_PPD)(ppd)
    app.command(epilog=_ADAPT)(adapt)


def dagger(
    run: options.RunFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of all rounds.")] = Path(
        "dagger"
    ),
    rounds: Annotated[
        int, typer.Option(callback=options.at_least(1), help="Number of rounds.")
    ] = 3,
    episodes: Annotated[
        int,
        typer.Option(callback=options.at_least(1), help="Episodes that each round adds."),
    ] = 2000,
    epochs: Annotated[
        int | None,
        typer.Option(
            callback=options.at_least(1),
            help="Passes over all episodes in each round.  [default: half of the run's]",
        ),
    ] = None,
    dataset: options.RunDataset = None,
    seed: Annotated[
        int, typer.Option(callback=options.at_least(0), help="Seed of the recorded episodes.")
    ] = 0,
    evaluation_episodes: Annotated[
        int, typer.Option(callback=options.at_least(2), help="To play all students in.")
    ] = 1000,
    evaluation_seed: Annotated[
        int, typer.Option(callback=options.at_least(0), help="Seed of the evaluation episodes.")
    ] = 0,
    expert: options.RecordedExpert = None,
    expert_recipe: options.ExpertRecipe = None,
    environment: options.RecordedEnvironment = None,
    opponents: options.RecordedOpponents = None,
    settings: options.Settings = None,
    resume: options.Resume = False,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train students in rounds on states that they reach, labelled by the expert (DAgger).

    Needs the environment and the expert; distill needs neither.
    """
    from kd_offline.online.dagger import REPORT
    from kd_offline.online.dagger import dagger as repeat

    kept = f"finished steps are in {output}: run the same command with --resume"
    with resumable(kept, output / REPORT):
        report = repeat(
            run,
            output,
            rounds=rounds,
            episodes=episodes,
            epochs=epochs,
            settings=options.assignments(settings),
            dataset=dataset,
            seed=seed,
            evaluation_episodes=evaluation_episodes,
            evaluation_seed=evaluation_seed,
            expert=expert,
            expert_recipe=expert_recipe,
            environment=environment,
            opponents=tuple(opponents or ()),
            resume=resume,
            command=command_line(),
            observers=options.observers(track),
        )
    emit(report) if json else _show_rounds(report, output)


def ppd(
    run: options.RunFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("further"),
    frames: Annotated[
        int, typer.Option(callback=options.at_least(1), help="Joint steps that each seed plays.")
    ] = 500_000,
    expert: options.RecordedExpert = None,
    environment: options.RecordedEnvironment = None,
    opponents: options.RecordedOpponents = None,
    settings: options.Settings = None,
    threads: options.Threads = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train students by reward and by the expert (proximal policy distillation).

    Needs the environment and the expert; distill needs neither.
    """
    from kd_offline.online.ppd import ppd as go_on
    from kd_offline.online.task import Allowed
    from kd_offline.runs.folder import RUN
    from kd_offline.runs.next_command import evaluate_command
    from kd_offline.schemas.outputs import DistillOutput

    kept = f"finished batches are in {output}: run the same command with --resume"
    with resumable(kept, output / RUN):
        done = go_on(
            run,
            output,
            frames=frames,
            settings=options.assignments(settings),
            allowed=Allowed(environment, expert, None, tuple(opponents or ())),
            threads=threads or 2,
            resume=resume,
            overwrite=overwrite,
            command=command_line(),
            observers=options.observers(track),
        )
    if json:
        emit(DistillOutput.of(done, str(output)))
        return
    say(f"{len(done.results)} teams in {done.timing.seconds:.1f} s")
    say(f"next: {evaluate_command(done, output)}")
    show(output)


def adapt(
    run: options.RunFolder,
    dataset: options.Dataset,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("adapted"),
    mask: Annotated[
        str | None,
        typer.Option(autocompletion=completion.masks, help="Stored mask.  [default: the run's]"),
    ] = None,
    epochs: _Epochs = None,
    episodes: Annotated[
        int, typer.Option(callback=options.at_least(2), help="To play all students in.")
    ] = 1000,
    seed: Annotated[
        int, typer.Option(callback=options.at_least(0), help="Seed of these episodes.")
    ] = 0,
    expert: Annotated[
        str | None, typer.Option(help="Expert of the run's task, if it is not bundled.")
    ] = None,
    new_expert: Annotated[
        str | None, typer.Option(help="Expert of the dataset's task, if it is not bundled.")
    ] = None,
    environment: options.RecordedEnvironment = None,
    new_environment: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="As --environment, of the dataset's task."),
    ] = None,
    settings: options.Settings = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train students on another task, and measure what they forget of the former one."""
    from kd_offline.online.adapt import adapt as go_on
    from kd_offline.online.task import Allowed
    from kd_offline.runs.folder import RUN

    given = options.given({"optimisation.epochs": epochs}) | options.assignments(settings)
    kept = f"finished seeds and epochs are in {output}: run the same command with --resume"
    with resumable(kept, output / RUN):
        report = go_on(
            run,
            dataset,
            output,
            mask=mask,
            settings=given,
            episodes=episodes,
            seed=seed,
            former=Allowed(environment, expert),
            new=Allowed(new_environment, new_expert),
            resume=resume,
            overwrite=overwrite,
            command=command_line(),
            observers=options.observers(track),
        )
    emit(report) if json else _show_tasks(report, output)


_HEAD = ("", "greedy return", "kept", "sampled return", "kept", "change of greedy return")


def _row(name: str, students: Students) -> tuple[str, ...]:
    from kd_offline.reports.formatting import percent, significant

    def kept(share: float | None) -> str:
        return "-" if share is None else percent(share, 1)

    change = students.change
    return (
        name,
        significant(students.greedy.student.mean),
        kept(students.greedy.retention.normalised),
        significant(students.sampled.student.mean),
        kept(students.sampled.retention.normalised),
        "-" if change is None else f"{change.mean:+.3g} [{change.low:+.3g}, {change.high:+.3g}]",
    )


def _show_rounds(report: DaggerReport, output: Path) -> None:
    rows = [_row("before", report.first)]
    rows += [_row(f"round {one.number}", one.students) for one in report.rounds]
    show(*table([_HEAD, *rows]))
    last = report.rounds[-1]
    say(f"{last.episodes:,} episodes in {output / last.dataset.path}")
    show(output / last.students.run)


def _show_tasks(report: AdaptationReport, output: Path) -> None:
    rows = [
        _row(f"{task} task, {when}", students)
        for task, scores in (("former", report.former), ("new", report.new))
        for when, students in (("before", scores.before), ("after", scores.after))
    ]
    show(*table([_HEAD, *rows]))
    show(output)
