"""``train``: experts, baselines and mask ceilings by reinforcement learning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd_offline.cli import completion, options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show
from kd_offline.cli.recipe_options import Setting, recipe_options
from kd_offline.errors import UsageError
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.schemas.expert import TrainRecipe

if TYPE_CHECKING:
    from kd_offline.experts.card import ExpertCard
    from kd_offline.tracking.base import Observer

_EXAMPLES = options.examples(
    "kd-offline train mpe/simple_spread_v3 -o expert/",
    "kd-offline train mpe/simple_spread_v3 -o ceiling/ --mask limited --seed 1",
    "kd-offline train mpe/simple_spread_v3 -o qmix/ --algorithm qmix",
    "kd-offline train grid/predator_prey -o teacher/ --algorithm vdn --view personalised",
    "kd-offline train grid/predator_prey -o ddn/ --algorithm ddn --mixer vdn",
    "kd-offline train mpe/simple_adversary_v3 -o good/ --side good --opponents bundled",
    "kd-offline train smax/3m -o small/ --hidden 32 --mask paper --teacher bundled",
    "kd-offline train --from run/ -o tuned/ --teacher bundled",
    "kd-offline train mpe/simple_spread_v3 -o experts/ --seeds 5 --on processes:2",
    "kd-offline train --recipe recipe.toml -o expert/ --resume",
)


_SETTINGS = {
    "mask": Setting("mask", complete=completion.masks),
    "share": Setting("architecture.share", "--share/--separate", default="share"),
    "critic": Setting("architecture.critic", help="Critic of mappo: central or local"),
    "view": Setting("architecture.view"),
    "mixer": Setting(
        "mixer", help="Mixer of ddn: vdn, qmix, qatten, qplex or wqmix.  [default: qmix]"
    ),
    "frames": Setting("frames"),
    "seed": Setting("seed"),
    "accelerator": Setting("accelerator"),
    "opponents": Setting("opponents"),
    "teacher": Setting(
        "kickstart.teacher",
        help="Expert that mappo and ippo follow at first, as for record --expert",
    ),
}


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(recipe_options(TrainRecipe, _SETTINGS)(train))


_Name = Annotated[
    str | None,
    typer.Argument(
        autocompletion=completion.environments,
        help="Name of the environment, see kd-offline envs; may come from --recipe.",
    ),
]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the expert.")]
_Algorithm = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.algorithms,
        help=f"Algorithm: {', '.join(ALGORITHMS)}.  [default: mappo]",
    ),
]
_Hidden = Annotated[
    int | None,
    typer.Option(
        help="Width of two layers and of the GRU.  [default: one layer of 128 and a GRU of "
        "128, with vdn and qmix of 64]"
    ),
]
_Gru = Annotated[
    bool | None,
    typer.Option("--gru/--mlp", help="Networks with or without memory.  [default: gru]"),
]
_Widths = Annotated[
    str | None, typer.Option(help="A width for each agent's own network, such as 32,16,16.")
]
_Side = Annotated[
    list[str] | None, typer.Option(help="Side that learns; repeatable.  [default: all]")
]
_From = Annotated[
    Path | None,
    typer.Option("--from", metavar="RUN", help="Start from the students of this run folder."),
]
_SeedOfRun = Annotated[
    int | None,
    typer.Option(help="Distillation seed of the team for --from.  [default: the run's first seed]"),
]
_Seeds = Annotated[
    str | None,
    typer.Option(
        help="Train an expert for each seed, in seed-0, seed-1, ...: 3 (the seeds 0 to 2), or "
        "0,1,2."
    ),
]
_Score = Annotated[
    int,
    typer.Option(
        callback=options.at_least(0), help="Episodes of greedy play that score the expert."
    ),
]


def train(
    environment: _Name = None,
    output: _Output = Path("expert"),
    algorithm: _Algorithm = None,
    *,
    chosen: dict[str, Any],
    hidden: _Hidden = None,
    gru: _Gru = None,
    widths: _Widths = None,
    side: _Side = None,
    start: _From = None,
    seed_of_run: _SeedOfRun = None,
    score: _Score = 4000,
    environment_kwargs: options.Environment = None,
    recipe: options.RecipeFile = None,
    settings: options.Settings = None,
    seeds: _Seeds = None,
    on: options.On = None,
    resume: options.Resume = False,
    threads: options.Threads = None,
    track: options.Track = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train an expert by reinforcement learning.

    It can be interrupted at any moment and continued with --resume.
    """
    from kd_offline.experts.recipe import train_recipe

    students = None
    if start is not None:
        from kd_offline.runs.start import start_settings

        students = start_settings(start, seed_of_run, environment=environment)
    elif seed_of_run is not None:
        msg = "--seed-of-run says whose team --from takes: give --from too, or leave it out"
        raise UsageError(msg)
    single = {
        "learn": side or None,
        "environment_kwargs": options.assignments(environment_kwargs) or None,
    }
    made = train_recipe(
        environment,
        algorithm=algorithm,
        hidden=hidden,
        gru=gru,
        widths=None if widths is None else options.integers(widths, "--widths"),
        file=recipe,
        start=students,
        settings=chosen | options.given(single) | options.assignments(settings),
    )
    if dry_run:
        emit(made, nulls=True)
        return
    observers = options.observers(track)
    if numbers := _seeds(seeds, on, made.seed if "seed" in chosen else None):
        recipes = {f"seed-{k}": made.model_copy(update={"seed": k}) for k in numbers}
        place = on or "serial"
        cards = _run_all(recipes, output, resume, threads or 2, score, observers, place)
        _summaries(cards, output, json)
        return
    card = _run(made, output, resume, threads or 2, score, observers)
    if json:
        emit(card)
    else:
        _summary(card, output)


def _seeds(seeds: str | None, on: str | None, seed: int | None) -> tuple[int, ...]:
    """Return the seeds of several trainings; none for a single one."""
    asked = options.seeds(seeds)
    if asked is None:
        if on is not None:
            msg = "one training is not divided: give --seeds, of which each is one, with --on"
            raise UsageError(msg)
        return ()
    if seed is not None:
        msg = f"--seed {seed} and --seeds {seeds} exclude each other: give one of them"
        raise UsageError(msg)
    numbers = tuple(range(asked)) if isinstance(asked, int) else asked
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        msg = f"--seeds {seeds} names a seed twice or below 0: give each once, as 0,1,2"
        raise UsageError(msg)
    return numbers


def _run_all(
    recipes: dict[str, Any],
    output: Path,
    resume: bool,
    threads: int,
    score: int,
    observers: list[Observer],
    on: str,
) -> dict[str, ExpertCard]:
    from kd_offline.experts.train_all import train_all

    kept = f"what was learned so far is in {output}: run the same command with --resume"
    with resumable(kept, output):
        return train_all(
            recipes,
            output,
            on=on,
            resume=resume,
            threads=threads,
            observers=observers,
            score_episodes=score,
        )


def _summaries(cards: dict[str, ExpertCard], output: Path, json: bool) -> None:
    if json:
        from kd_offline.experts.card import TrainSeedsOutput

        emit(TrainSeedsOutput(experts=cards))
        return
    for name, card in cards.items():
        _summary(card, output / name)


def _run(
    recipe: Any,
    output: Path,
    resume: bool,
    threads: int,
    score: int,
    observers: list[Observer],
) -> ExpertCard:
    from kd_offline.experts.checkpoint import CARD
    from kd_offline.experts.train import train as learn

    kept = f"what was learned so far is in {output}: run the same command with --resume"
    with resumable(kept, output / CARD):
        return learn(
            recipe,
            output,
            resume=resume,
            threads=threads,
            observers=observers,
            score_episodes=score,
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
        if card.greedy.won is not None:
            say(f"  won: {card.greedy.won:.1%}")
    show(output)
