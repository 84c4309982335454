"""``profile`` and ``deploy-check``: describe a team, and check it against an interface."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show, table, terminal
from kd_offline.errors import EXIT_FAILED

if TYPE_CHECKING:
    from kd_offline.schemas.collaboration import CollaborationProfile, SwappedAgent
    from kd_offline.schemas.evaluation import Estimate
    from kd_offline.schemas.interface import InterfaceCheck


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(
        epilog=options.examples(
            "kd-offline profile run/",
            "kd-offline profile run/ --export run/export-int8",
            "kd-offline profile run/ --episodes 1000 -o team.json --json",
        )
    )(profile)
    app.command(
        name="deploy-check",
        epilog=options.examples(
            "kd-offline deploy-check run/profile.json --obs-spec robot.toml",
            "kd-offline deploy-check run/export --environment mpe/simple_spread_v3 --json",
        ),
    )(deploy_check)


def profile(
    run: Annotated[Path, typer.Argument(help="Run folder; use inspect for a dataset.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File.  [default: profile.json in EXPORT or RUN]"),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Export of the run that the profile is shipped with.")
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(
            help="Number of episodes to play for missing results.  [default: play nothing]"
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Of an export that is played: numpy, torch, onnx or c, which compiles and runs "
            "the code that is in it, so it is for exports that you trust."
        ),
    ] = None,
    expert: options.RecordedExpert = None,
    expert_recipe: options.ExpertRecipe = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="The run's dataset.  [default: the local path that the run states]"),
    ] = None,
    environment: options.RecordedEnvironment = None,
    opponents: options.RecordedOpponents = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write the collaboration profile of a distilled team.

    One JSON document with agents, masks, actions, digests, measurements, mixed teams and limits.
    """
    options.one_thread_each()
    from kd_offline.deployment.document import profile_path
    from kd_offline.deployment.profile import collaboration_profile

    with resumable("nothing was changed: run the same command again"):
        made = collaboration_profile(
            run,
            output,
            export=export,
            episodes=episodes,
            engine=engine,
            expert=expert,
            expert_recipe=expert_recipe,
            dataset=dataset,
            environment=environment,
            opponents=opponents or (),
            overwrite=overwrite,
            observers=[terminal()],
        )
    if json:
        emit(made)
        return
    _summary(made, {"RUN": run, "EXPORT": export or run / "export"})
    say(f"written: {profile_path(run, output, export)}")


def deploy_check(
    profile: Annotated[
        Path, typer.Argument(help="Profile, or the folder of a run or an export that holds one.")
    ],
    obs_spec: Annotated[
        Path | None, typer.Option(help="Agent interface, TOML or JSON (schema: interface).")
    ] = None,
    environment: Annotated[
        str | None, typer.Option(help="Environment whose interface is taken instead.")
    ] = None,
    environment_kwargs: options.Environment = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Check whether a team fits an agent interface.

    Exit code 0: it fits; 1: it does not.
    """
    from kd_offline.deployment.check import deploy_check as check

    found = check(
        profile, obs_spec, environment=environment, settings=options.assignments(environment_kwargs)
    )
    if json:
        emit(found)
    else:
        _show_check(found)
    if not found.fits:
        raise typer.Exit(EXIT_FAILED)


def _summary(made: CollaborationProfile, places: dict[str, Path]) -> None:
    show(f"{made.environment}, {made.method}, mask {made.mask}, {len(made.agents)} agents")
    for agent in made.agents:
        seen, contract = len(agent.contract.seen), agent.contract
        show(
            f"  {contract.agent}: sees {seen} of {contract.obs_width}, {agent.cost.flops:,} FLOPs, "
            f"{contract.parameter_bytes:,} bytes of weights"
        )
    if made.cross_play is not None:
        show(f"mixed teams, {made.cross_play.episodes:,} episodes, return of the agent's side")
        head = ("agent", "all experts", "its student among experts", "its expert among students")
        rows = [_swapped(row) for row in made.cross_play.agents]
        show(*table([head, *rows]))
    for limit in made.limits:
        show(f"{limit.topic}: {limit.text}")
        if limit.command is not None:
            show(f"  {_filled(limit.command, places)}")


def _filled(command: str, places: dict[str, Path]) -> str:
    """Return a command with the folders that its words in capitals stand for."""
    return shlex.join(_place(word, places) for word in command.split())


def _place(word: str, places: dict[str, Path]) -> str:
    head, _, inside = word.partition("/")
    return str(places[head] / inside) if head in places else word


def _swapped(row: SwappedAgent) -> tuple[str, ...]:
    mixed = (row.student_among_experts.returns, row.expert_among_students.returns)
    return (row.agent, _number(row.experts), *map(_number, mixed))


def _number(found: Estimate | None) -> str:
    return "" if found is None else f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _show_check(found: InterfaceCheck) -> None:
    for mismatch in found.mismatches:
        show(f"{mismatch.where}: {mismatch.what}")
    for agent in found.agents:
        words = "as it is" if agent.as_it_is else "with what is moved" if agent.fits else "not"
        show(f"  {agent.agent} fits {words}".replace("fits not", "does not fit"))
        for block, fit in agent.blocks.items() if not agent.fits else ():
            show(f"    {block}: {fit}")
    for note in found.notes:
        show(f"note: {note}")
    for text in found.not_checked:
        show(f"not checked: {text}")
    verdict = "fits" if found.fits else f"does not fit: {len(found.mismatches)} mismatches"
    show(f"the team of {found.environment} and {found.interface}: {verdict}")
