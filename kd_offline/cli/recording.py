"""``record``: stage 1, an expert buffer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd_offline.cli import completion, options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show
from kd_offline.cli.recipe_options import Setting, recipe_options
from kd_offline.commands import command_text
from kd_offline.schemas.record_recipe import RecordRecipe

if TYPE_CHECKING:
    from kd_offline.schemas.dataset import DatasetManifest
    from kd_offline.schemas.outputs import RecordOutput
    from kd_offline.tracking.base import Observer

_EXAMPLES = options.examples(
    "kd-offline record",
    "kd-offline record mpe/simple_spread_v3 -o dataset.zarr",
    "kd-offline record mpe/simple_spread_v3 --expert expert/ --episodes 10000 --seed 1",
    "kd-offline record mpe/simple_spread_v3 --expert strong/ --expert weak/ -o both.zarr",
    "kd-offline record mpe/simple_spread_v3 --expert epymarl:models/20050000 -o theirs.zarr",
    "kd-offline record mpe/simple_spread_v3 --noise 0:0.5,0.25:0.5 --mask full --mask my.toml",
    "kd-offline record mpe/simple_spread_v3 --partner run/ -o dataset-2.zarr",
    "kd-offline record grid/predator_prey --expert expert/ --full-observations",
    "kd-offline record --recipe recipe.toml --set episodes=1000 --dry-run",
    "kd-offline record mpe/simple_spread_v3 -o dataset.zarr --resume",
    "kd-offline record mpe/simple_spread_v3 --shard 3/10 -o shards/3.zarr --resume",
    "kd-offline record mpe/simple_spread_v3 --shard 3/10 -o s3://bucket/run/3.zarr --resume",
    "kd-offline record mpe/simple_spread_v3 --episodes 100000 --on processes:4",
    "kd-offline record mpe/simple_spread_v3 --on ray",
)
_SETTINGS = {
    "expert": Setting(
        "expert", complete=completion.one_of(*completion.EXPERTS), default="bundled", metavar="NAME"
    ),
    "expert_recipe": Setting("expert_recipe", metavar="FILE"),
    "opponents": Setting("opponents", metavar="NAME", default="only bundled ones"),
    "episodes": Setting("episodes"),
    "seed": Setting("seed"),
    "shard": Setting("shard", metavar="NUMBER/COUNT"),
    "noise_mixture": Setting("noise_mixture", "--noise", kind=str, default="default"),
    "partner": Setting("partner"),
    "partner_share": Setting("partner_share"),
    "partner_agents": Setting("partner_agents"),
    "masks": Setting("masks", "--mask", complete=completion.masks, metavar="NAME"),
    "batch": Setting("batch"),
    "embedding_dtype": Setting("embedding_dtype", "--embedding"),
    "full_observations": Setting("full_observations"),
    "name": Setting("name"),
    "description": Setting("description"),
    "licence": Setting("licence"),
    "citation": Setting("citation"),
    "threads": Setting("threads"),
}


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(recipe_options(RecordRecipe, _SETTINGS)(record))


_Environment = Annotated[
    str | None,
    typer.Argument(
        autocompletion=completion.environments,
        help="Name of the environment, see kd-offline envs; may come from --recipe.  "
        f"[default: {RecordRecipe.model_fields['environment'].default}]",
    ),
]
_Output = Annotated[
    str, typer.Option("--output", "-o", help="Dataset to write, a folder or an address.")
]


def record(
    environment: _Environment = None,
    output: _Output = "dataset.zarr",
    *,
    chosen: dict[str, Any],
    environment_kwargs: options.Environment = None,
    on: options.On = None,
    recipe: options.RecipeFile = None,
    settings: options.Settings = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    track: options.Track = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Record a dataset from an expert.

    The expert plays; everything that a distillation needs is written to an expert buffer.
    """
    from kd_offline.recording.recipe import record_recipe

    given = options.assignments(environment_kwargs)
    own = {f"environment_kwargs.{name}": value for name, value in given.items()}
    single = chosen | own | options.assignments(settings)
    made = record_recipe(environment, file=recipe, settings=single)
    if dry_run:
        emit(made, nulls=True)
        return
    observers = options.observers(track)
    done = _run(made, output, resume, overwrite, observers, on)
    if json:
        emit(done)
        return
    say(f"{done.episodes:,} episodes, {done.steps:,} steps, {done.bytes / 1e6:.1f} MB")
    say(f"{done.id} in {done.seconds:.1f} s")
    if made.shard is None:
        say(f"next: {command_text('distill', output)}")
    else:
        say(f"shard {made.shard}: kd-offline merge makes one dataset of all shards")
    show(output)


def _run(
    recipe: RecordRecipe,
    output: str,
    resume: bool,
    overwrite: bool,
    observers: list[Observer],
    on: str | None,
) -> RecordOutput:
    from kd_offline.datasets.format.layout import JOURNAL
    from kd_offline.datasets.storage.addresses import is_remote
    from kd_offline.recording.addresses import staging
    from kd_offline.recording.record import record as roll_out

    local = staging(output) if is_remote(output) else Path(output)
    kept = f"what was recorded so far is in {local}: run the same command with --resume"
    several = len(recipe.expert) > 1
    begun = local.with_name(f"{local.name}.parts") if several else local / JOURNAL
    with resumable(kept, begun):
        manifest = roll_out(
            recipe, output, resume=resume, overwrite=overwrite, observers=observers, on=on
        )
    return _output(manifest, output)


def _output(manifest: DatasetManifest, output: str) -> RecordOutput:
    from kd_offline.datasets.metadata.summary import size_bytes
    from kd_offline.datasets.reading.reader import ExpertBuffer
    from kd_offline.schemas.outputs import RecordOutput

    return RecordOutput(
        id=manifest.id,
        path=output,
        episodes=manifest.statistics.episodes,
        steps=manifest.statistics.steps,
        bytes=size_bytes(ExpertBuffer.open(output)),
        seconds=manifest.recording.seconds or 0.0,
    )
