"""``train``: experts, baselines and mask ceilings by reinforcement learning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd_offline.cli import options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import bar, emit, say

if TYPE_CHECKING:
    from kd_offline.schemas.expert import ExpertCard

_EXAMPLES = options.examples(
    "kd-offline train mpe/simple_spread_v3 -o expert/",
    "kd-offline train mpe/simple_spread_v3 -o ceiling/ --mask limited --seed 1",
    "kd-offline train mpe/simple_adversary_v3 -o good/ --side good --opponents bundled",
    "kd-offline train --recipe recipe.toml -o expert/ --resume",
)


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(train)


def train(
    environment: Annotated[
        str | None, typer.Argument(help="Name, see kd-offline envs; may come from --recipe.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("expert"),
    algorithm: Annotated[str | None, typer.Option(help="mappo or ippo.  [default: mappo]")] = None,
    mask: Annotated[str | None, typer.Option(help="Train under this observation mask.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of the actors.  [default: 64]")] = None,
    gru: Annotated[
        bool | None, typer.Option("--gru/--mlp", help="With or without memory.  [default: gru]")
    ] = None,
    widths: Annotated[
        str | None, typer.Option(help="A width for each agent's own network, such as 32,16,16.")
    ] = None,
    share: Annotated[
        bool | None,
        typer.Option("--share/--separate", help="One network for like agents.  [default: share]"),
    ] = None,
    critic: Annotated[str | None, typer.Option(help="central or local.")] = None,
    frames: Annotated[int | None, typer.Option(help="Joint steps.  [default: 8000000]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.  [default: 0]")] = None,
    side: Annotated[
        list[str] | None, typer.Option(help="Side that learns; repeatable.  [default: all]")
    ] = None,
    opponents: Annotated[
        str | None, typer.Option(help="Expert that plays the other sides: bundled or a folder.")
    ] = None,
    score: Annotated[int, typer.Option(help="Episodes of greedy play at the end.")] = 4000,
    env: options.Environment = None,
    recipe: options.RecipeFile = None,
    settings: options.Settings = None,
    resume: options.Resume = False,
    threads: options.Threads = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train an expert by MAPPO or IPPO.

    It can be interrupted at any moment and continued with --resume.
    """
    from kd_offline.experts.recipe import train_recipe

    single: dict[str, Any] = {"mask": mask, "frames": frames, "seed": seed, "opponents": opponents}
    single = {key: value for key, value in single.items() if value is not None}
    single |= {"learn": tuple(side)} if side else {}
    single |= {"environment_kwargs": options.assignments(env)} if env else {}
    chosen = train_recipe(
        environment,
        algorithm=algorithm,
        hidden=hidden,
        gru=gru,
        widths=None if widths is None else options.integers(widths, "--widths"),
        share=share,
        critic=critic,
        file=recipe,
        settings=single | options.assignments(settings),
    )
    if dry_run:
        emit(chosen, nulls=True)
        return
    card = _run(chosen, output, resume, threads or 2, score, quiet)
    if json:
        emit(card)
    else:
        _summary(card, output)


def _run(
    recipe: Any, output: Path, resume: bool, threads: int, score: int, quiet: bool
) -> ExpertCard:
    from kd_offline.experts.train import train as learn

    kept = f"what was learned so far is in {output}: run the same command with --resume"
    with bar(recipe.frames, "steps", quiet) as shown, resumable(kept):

        def report(progress: Any) -> None:
            shown.update(progress.frames - shown.n)
            returns = " ".join(f"{side} {value:.2f}" for side, value in progress.returns.items())
            shown.set_postfix_str(f"return {returns}", refresh=False)

        return learn(
            recipe, output, resume=resume, threads=threads, report=report, score_episodes=score
        )


def _summary(card: ExpertCard, output: Path) -> None:
    say(f"expert with {card.parameters['actor']:,} parameters in {output}")
    if card.greedy is not None:
        for side, value in card.greedy.returns.items():
            error = card.greedy.standard_errors[side]
            say(
                f"  {side}: {value:.2f} +- {error:.2f} (sum over its agents, greedy, "
                f"{card.greedy.episodes} episodes)"
            )
    typer.echo(str(output))
