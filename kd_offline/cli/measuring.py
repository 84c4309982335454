"""``bench`` and ``hardware``: the cost of decisions on this machine and on devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import completion, options
from kd_offline.cli.evaluation import prediction
from kd_offline.cli.failures import resumable
from kd_offline.cli.groups import App
from kd_offline.cli.output import emit, say, show, table, terminal

if TYPE_CHECKING:
    from kd_offline.schemas.hardware import HardwareProfile
    from kd_offline.schemas.latency import EngineLatency, LatencyReport
    from kd_offline.schemas.quantisation import QuantisationReport

bench = App(
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=options.examples("kd-offline bench latency run/"),
)


@bench.callback()
def bench_options() -> None:
    """Measure latency and quantisation of a run's students on this machine."""


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    bench.command(
        epilog=options.examples(
            "kd-offline bench latency run/",
            "kd-offline bench latency run/ --engines torch,c --batch 1,64 --json",
            "kd-offline bench latency run/ --device stm32f4 --device mine.toml",
            "kd-offline bench latency run/ --energy",
        )
    )(latency)
    bench.command(
        epilog=options.examples(
            "kd-offline bench quantisation run/",
            "kd-offline bench quantisation run/ --qat run-qat/ --episodes 1000",
        )
    )(quantisation)
    app.add_typer(bench, name="bench")
    app.command(
        epilog=options.examples(
            "kd-offline hardware", "kd-offline hardware stm32f4", "kd-offline hardware mine.toml"
        )
    )(hardware)


def latency(
    run: options.RunFolder,
    engines: Annotated[
        str, typer.Option(help="Engines: torch, onnx, c, c-ctypes, numpy; several with commas.")
    ] = "torch,onnx,c,c-ctypes,numpy",
    batch: Annotated[
        str, typer.Option(help="Rows that a step computes at once; several with commas.")
    ] = "1",
    rounds: Annotated[int, typer.Option(help="Number of rounds in which engines take turns.")] = 50,
    steps: Annotated[int, typer.Option(help="Steps that are timed in a turn.")] = 100,
    seed: options.Seed = 0,
    expert: options.RecordedExpert = None,
    expert_recipe: options.ExpertRecipe = None,
    opponents: options.RecordedOpponents = None,
    profile: options.Profiles = None,
    energy: Annotated[
        bool, typer.Option("--energy", help="Also measure energy, if there is a meter.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Time single decisions of the expert and the students.

    The engines take turns, warmed up and on one thread. Writes latency.json into the run.
    """
    options.one_thread_each()
    from kd_offline.evaluation.latency import bench_latency

    with resumable("nothing was changed: run the same command again"):
        report = bench_latency(
            run,
            engines=engines.split(","),
            batches=options.integers(batch, "--batch"),
            rounds=rounds,
            steps=steps,
            seed=seed,
            expert=expert,
            expert_recipe=expert_recipe,
            opponents=opponents or (),
            profiles=profile or (),
            energy=energy,
            observers=[terminal()],
        )
    if json:
        emit(report)
    else:
        _show_latency(report, run)


def quantisation(
    run: options.RunFolder,
    qat: Annotated[Path | None, typer.Option(help="The same run, distilled with --qat.")] = None,
    episodes: Annotated[
        int, typer.Option(help="Number of episodes; every team plays the same ones.")
    ] = 4000,
    seed: options.Seed = 0,
    expert: options.RecordedExpert = None,
    expert_recipe: options.ExpertRecipe = None,
    dataset: options.RunDataset = None,
    environment: options.RecordedEnvironment = None,
    opponents: options.RecordedOpponents = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Compare students with float and int8 weights, by returns and actions.

    Compares students that are rounded after training and, with --qat, students that were trained
    with int8 weights. Writes quantisation.json into the run.
    """
    options.one_thread_each()
    from kd_offline.evaluation.quantisation import bench_quantisation

    with resumable("nothing was changed: run the same command again"):
        report = bench_quantisation(
            run,
            qat=qat,
            episodes=episodes,
            seed=seed,
            expert=expert,
            expert_recipe=expert_recipe,
            dataset=dataset,
            environment=environment,
            opponents=opponents or (),
            observers=[terminal()],
        )
    if json:
        emit(report)
    else:
        _show_quantisation(report, run)


def hardware(
    name: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completion.devices, help="Name or .toml file; omit it to list all names."
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List devices, or show one with its sources.

    Figures without a source are left out; assumed figures are marked as such.
    """
    from kd_offline.hardware import profiles

    if name is not None:
        profile = profiles.load(name)
        emit(profile) if json else _show_profile(profile)
        return
    every = [profiles.load(known) for known in profiles.names()]
    if json:
        from kd_offline.schemas.outputs import HardwareOutput

        emit(HardwareOutput(profiles=tuple(every)))
    else:
        show(*table([(one.name, one.title, one.core) for one in every]))


def _show_latency(report: LatencyReport, run: Path) -> None:
    names = ("who", "engine", "agents", "batch", "p50 us", "p95 us", "p99 us", "max us")
    head = (*names, "than expert", "than torch")
    rows = [(*_row(row), *_times(row)) for row in report.rows]
    show(*table([head, *rows]))
    for row in report.rows:
        for one in row.predictions:
            show(f"{row.who} {row.agents[0]}, {prediction(one)}")
    for missing in report.unavailable:
        say(f"{missing.who}, {missing.engine}: unavailable: {missing.reason}")
    for label in sorted({_energy(row) for row in report.rows}):
        show(label)
    show(f"{report.convention}; timer {report.timer_ns:.0f} ns")
    say(f"written: {run / 'latency.json'}")


def _show_quantisation(report: QuantisationReport, run: Path) -> None:
    from kd_offline.reports.quantisation_table import quantisation_table

    found = quantisation_table(report)
    show(*table([found.columns, *found.rows]))
    show(f"{report.episodes:,} episodes, greedy; expert {report.expert.mean:.3f}")
    say(f"written: {run / 'quantisation.json'}")


def _row(row: EngineLatency) -> tuple[str, ...]:
    return row.who, row.engine, ",".join(row.agents), str(row.batch)


def _times(row: EngineLatency) -> tuple[str, ...]:
    values = (row.p50_us, row.p95_us, row.p99_us, row.max_us)
    times = ("" if x is None else f"{x:.1f}x" for x in (row.faster, row.engine_faster))
    return (*(f"{value:,.2f}" for value in values), *times)


def _energy(row: EngineLatency) -> str:
    if row.energy.kind == "unavailable":
        return f"energy: unavailable: {row.energy.reason}"
    found = f"{row.energy.microjoules:,.2f} uJ a step, {row.energy.kind}"
    return f"energy of {row.who} {row.engine}, batch {row.batch}: {found}"


def _show_profile(profile: HardwareProfile) -> None:
    show(profile.title, profile.core, "")
    rows = [("figure", "value", "kind", "date", "source")]
    for path, one in profile.figures().items():
        error = "" if one.error is None else f" (fit off by up to {100 * one.error:.0f} %)"
        value = f"{one.value:g}" if one.unit == "1" else f"{one.value:g} {one.unit}"
        rows.append((path, value + error, one.kind, one.date, one.source))
    show(*table(rows))
    for note in profile.notes:
        say(note)
