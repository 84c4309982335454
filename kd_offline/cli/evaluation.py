"""``evaluate``: the retention and the cost of students."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show
from kd_offline.commands import command_text

if TYPE_CHECKING:
    from kd_offline.schemas.evaluation import EvaluationReport, ModeScore, SideScore, WinRates
    from kd_offline.schemas.hardware import Prediction

_EXAMPLES = options.examples(
    "kd-offline evaluate run/",
    "kd-offline evaluate run/ --ceiling ceiling/ --episodes 1000 --modes greedy",
    "kd-offline evaluate run/ --expert epymarl:models/20050000",
    "kd-offline evaluate run/ --expert bundled --expert weak/ --expert other/",
    "kd-offline evaluate run/ --cross-play --json",
    "kd-offline evaluate run/ --device stm32f4",
    "kd-offline evaluate run/ --export run/export-int8",
    "kd-offline evaluate run/ --episodes 100000 --on processes:4",
)


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(evaluate)


def evaluate(
    run: options.RunFolder,
    episodes: Annotated[
        int, typer.Option(help="Number of episodes; every policy plays the same ones.")
    ] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of the evaluation episodes.")] = 0,
    modes: Annotated[
        str, typer.Option(help="How actions are chosen: greedy, sampled or both.")
    ] = "greedy,sampled",
    expert: Annotated[
        list[str] | None,
        typer.Option(
            help="Where the recorded expert is. Of several, students are compared with the best, "
            "and with each; repeatable.  [default: as recorded]"
        ),
    ] = None,
    expert_recipe: options.ExpertRecipe = None,
    ceiling: Annotated[
        str | None, typer.Option(help="Mask ceiling: an expert trained under the students' mask.")
    ] = None,
    cross_play: Annotated[
        bool, typer.Option("--cross-play", help="Also play mixed teams of students and experts.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option(help="Export of the run to play instead of its students.")
    ] = None,
    engine: options.ExportEngine = None,
    environment: options.RecordedEnvironment = None,
    opponents: options.RecordedOpponents = None,
    profile: options.Profiles = None,
    batch: Annotated[int, typer.Option(help="Episodes played at once.")] = 1000,
    accelerator: options.Accelerator = None,
    threads: options.Threads = None,
    on: options.On = None,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure the retention and the cost of students.

    Expert, students, random play and the mask ceiling play the same episodes.
    """
    from kd_offline.evaluation.evaluate import evaluate as measure
    from kd_offline.schemas.outputs import EvaluateOutput

    _use(threads or 2)
    with resumable("nothing was changed: run the same command again"):
        report = measure(
            run,
            episodes=episodes,
            seed=seed,
            modes=tuple(modes.split(",")),
            expert=expert or None,
            expert_recipe=expert_recipe,
            ceiling=ceiling,
            cross_play=cross_play,
            batch=batch,
            profiles=profile or (),
            export=export,
            engine=engine,
            environment=environment,
            opponents=opponents or (),
            accelerator=accelerator or "cpu",
            on=on,
            observers=options.observers(track),
        )
    if json:
        emit(EvaluateOutput.of(report))
    else:
        _summary(report, run, run if export is None else export)


def _use(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _figures(score: ModeScore | SideScore) -> None:
    for who in ("expert", "ceiling", "student", "random"):
        estimate = getattr(score, who)
        if estimate is not None:
            show(f"  {who:8} {estimate.mean:9.3f}  [{estimate.low:.3f}, {estimate.high:.3f}]")
    kept = {k: v for k, v in score.retention.model_dump().items() if v is not None}
    shares = ", ".join(f"{name} {100 * value:.1f} %" for name, value in kept.items())
    show(f"  retention {shares or 'undefined: the expert is no better than random play'}")


def _wins(rates: WinRates) -> None:
    each = ((who, getattr(rates, who)) for who in ("expert", "ceiling", "student", "random"))
    shares = (
        f"{who} {100 * share.mean:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"
        for who, share in each
        if share is not None
    )
    show(f"  won: {', '.join(shares)}")


def _summary(report: EvaluationReport, run: Path, place: Path) -> None:
    for name, score in (("greedy", report.greedy), ("sampled", report.sampled)):
        if score is None:
            continue
        played = f", students as {report.export}" if report.export else ""
        show(f"{name}{played}, {report.episodes:,} episodes, sum over agents, 95 % intervals")
        _figures(score)
        if score.win_rate is not None:
            _wins(score.win_rate)
        for expert, beside in (score.experts or {}).items():
            gap = beside.difference
            show(
                f"  another expert, {expert}: {beside.expert.mean:.3f}; students less it "
                f"{gap.mean:+.3f}  [{gap.low:+.3f}, {gap.high:+.3f}]"
            )
        for side, part in score.sides.items() if len(score.sides) > 1 else ():
            show(f"  {side}, the others played by the expert")
            _figures(part)
    _costs(report)
    same = "undefined: nobody has a choice of actions"
    if report.agreement is not None:
        same = f"{100 * report.agreement:.1f} %"
    show(f"action agreement {same}")
    say(f"written: {place / 'evaluation.json'}")
    if not report.export:
        say(f"next: {command_text('report', run)}")


def _costs(report: EvaluationReport) -> None:
    from kd_offline.reports.formatting import cost_share

    cost = report.cost
    agents = len(cost.student.agents)
    for what, expert, student in (
        ("a decision", cost.expert.flops / agents, cost.student.flops / agents),
        ("a team step", cost.expert.flops, cost.student.flops),
        ("an episode", cost.expert.episode.flops, cost.student.episode.flops),
    ):
        saved = cost_share(expert / max(student, 1))
        show(f"cost of {what}: {expert:,.0f} -> {student:,.0f} FLOPs ({saved})")
    if cost.expert_with_critic is not None:
        whole = cost.expert_with_critic.flops
        show(f"  the expert with what says its values: {whole:,} FLOPs a team step")
    once = cost.expert.parameters_once
    shared = "" if once is None else f" ({once:,} with the expert's shared networks counted once)"
    show(f"parameters: {cost.expert.parameters:,}{shared} -> {cost.student.parameters:,}")
    for one in report.predictions:
        show(f"  {one.agent}, {one.who}: {prediction(one.prediction)}")


def prediction(found: Prediction) -> str:
    """Return the prediction of a device's model as text, with its label."""
    latency = "latency unknown"
    if found.latency_us is not None:
        latency = f"{found.latency_us:,.2f} us ({found.kind}, {found.basis})"
    energy = found.energy
    joules = (
        "energy unavailable"
        if energy.kind == "unavailable"
        else f"{energy.microjoules:,.3g} uJ ({energy.kind})"
    )
    place = "" if found.fits is None else ", fits" if found.fits else ", does not fit"
    return f"{found.engine} on {found.profile}: {latency}, {joules}{place}"
