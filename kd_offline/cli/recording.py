"""``record``: stage 1, an expert buffer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd_offline.cli import completion, options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show
from kd_offline.commands import command_text

if TYPE_CHECKING:
    from kd_offline.schemas.dataset import DatasetManifest
    from kd_offline.schemas.outputs import RecordOutput
    from kd_offline.tracking.base import Observer

_EXAMPLES = options.examples(
    "kd-offline record",
    "kd-offline record mpe/simple_spread_v3 -o dataset.zarr",
    "kd-offline record mpe/simple_spread_v3 --expert expert/ --episodes 10000 --seed 1",
    "kd-offline record mpe/simple_spread_v3 --expert epymarl:models/20050000 -o theirs.zarr",
    "kd-offline record mpe/simple_spread_v3 --noise 0:0.5,0.25:0.5 --mask full --mask my.toml",
    "kd-offline record mpe/simple_spread_v3 --partner run/ -o dataset-2.zarr",
    "kd-offline record mpe/simple_spread_v3 -o dataset.zarr --resume",
)


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(record)


_Environment = Annotated[
    str, typer.Argument(autocompletion=completion.environments, help="Name, see kd-offline envs.")
]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Dataset to make.")]
_Expert = Annotated[
    str,
    typer.Option(
        autocompletion=completion.one_of(*completion.EXPERTS),
        help="bundled, bundled:large, bundled:mlp, bundled:masked, a trained folder, or one of "
        "another library: epymarl:DIR, pymarl2:DIR, on-policy:DIR, benchmarl:FILE, jaxmarl:FILE, "
        "onnx:FILE, python:package.module:factory.",
    ),
]
_Episodes = Annotated[int, typer.Option(help="Episodes.")]
_Noise = Annotated[
    str, typer.Option(help="Behaviour noise: default, none, or LEVEL:SHARE,LEVEL:SHARE,...")
]
_Partner = Annotated[
    str,
    typer.Option(help="Students that take part: a run folder, bundled (if there are any) or none."),
]
_Share = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the episodes that the partner takes part in.")
]
_Mask = Annotated[
    list[str] | None,
    typer.Option(
        autocompletion=completion.masks,
        help="Student mask to store; repeatable.  [default: all that exist]",
    ),
]
_Batch = Annotated[
    int | None,
    typer.Option(
        help="Episodes played at once by each thread.  [default: 25,000 steps' worth, up to 1,000]"
    ),
]
_Embedding = Annotated[str, typer.Option(help="float16 or float32.")]
_Threads = Annotated[
    int,
    typer.Option(
        callback=options.at_least(1),
        help="Batches played side by side; the dataset does not depend on it.",
    ),
]
_Name = Annotated[str | None, typer.Option(help="Name of the dataset.")]
_Description = Annotated[str, typer.Option(help="What it is, in words.")]
_Licence = Annotated[str, typer.Option(help="Licence, such as CC-BY-4.0.")]
_Citation = Annotated[str, typer.Option(help="How to cite it.")]


def record(
    environment: _Environment = "mpe/simple_spread_v3",
    output: _Output = Path("dataset.zarr"),
    expert: _Expert = "bundled",
    expert_recipe: options.ExpertRecipe = None,
    opponents: options.RecordedOpponents = None,
    episodes: _Episodes = 30000,
    seed: options.Seed = 0,
    noise: _Noise = "default",
    partner: _Partner = "bundled",
    partner_share: _Share = 0.5,
    mask: _Mask = None,
    batch: _Batch = None,
    embedding: _Embedding = "float16",
    name: _Name = None,
    description: _Description = "",
    licence: _Licence = "",
    citation: _Citation = "",
    environment_kwargs: options.Environment = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    threads: _Threads = 2,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Record a dataset from an expert.

    The expert plays; everything that a distillation needs is exported to an expert buffer.
    """
    from kd_offline.recording.noise import parse_mixture

    arguments = {
        "expert": expert,
        "expert_recipe": expert_recipe,
        "opponents": opponents or (),
        "episodes": episodes,
        "seed": seed,
        "noise_mixture": parse_mixture(noise),
        "partner": partner,
        "partner_share": partner_share,
        "masks": mask,
        "batch": batch,
        "environment_kwargs": options.assignments(environment_kwargs),
        "embedding_dtype": embedding,
        "name": name,
        "description": description,
        "licence": licence,
        "citation": citation,
        "threads": threads,
        "resume": resume,
        "overwrite": overwrite,
    }
    done = _run(environment, output, arguments, options.observers(track))
    if json:
        emit(done)
        return
    say(f"{done.episodes:,} episodes, {done.steps:,} steps, {done.bytes / 1e6:.1f} MB")
    say(f"{done.id} in {done.seconds:.1f} s")
    say(f"next: {command_text('distill', output)}")
    show(output)


def _run(
    environment: str, output: Path, arguments: dict[str, Any], observers: list[Observer]
) -> RecordOutput:
    from kd_offline.datasets.format.layout import JOURNAL
    from kd_offline.recording.record import record as roll_out

    kept = f"what was recorded so far is in {output}: run the same command with --resume"
    with resumable(kept, output / JOURNAL):
        manifest = roll_out(environment, output, observers=observers, **arguments)
    return _output(manifest, output)


def _output(manifest: DatasetManifest, output: Path) -> RecordOutput:
    from kd_offline.datasets.metadata.summary import size_bytes
    from kd_offline.datasets.reading.reader import ExpertBuffer
    from kd_offline.schemas.outputs import RecordOutput

    return RecordOutput(
        id=manifest.id,
        path=str(output),
        episodes=manifest.statistics.episodes,
        steps=manifest.statistics.steps,
        bytes=size_bytes(ExpertBuffer.open(output)),
        seconds=manifest.recording.seconds or 0.0,
    )
