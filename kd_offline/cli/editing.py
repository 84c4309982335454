"""``split``, ``filter``, ``merge``, ``append``: datasets of chosen episodes of others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd_offline.cli import options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show, terminal
from kd_offline.errors import UsageError

if TYPE_CHECKING:
    from kd_offline.schemas.dataset import DatasetManifest
    from kd_offline.tracking.base import Observer

Output = Annotated[Path, typer.Option("--output", "-o", help="Dataset to write.")]
_Merged = Annotated[
    str, typer.Option("--output", "-o", help="Dataset to write; with --virtual also an address.")
]
_Virtual = Annotated[
    bool, typer.Option("--virtual", help="List the datasets by their addresses, without copying.")
]
_Datasets = Annotated[list[str], typer.Argument(help="Two datasets or more.")]
_More = Annotated[list[str], typer.Argument(help="Datasets whose episodes are added.")]
_Without = Annotated[
    list[str] | None,
    typer.Option(help="Array to leave out, such as embedding or final/value; repeatable."),
]
_Arrays = Annotated[
    str,
    typer.Option(
        help="all: every dataset has to have the same arrays; common: keep arrays that all have."
    ),
]
_Allow = Annotated[
    bool, typer.Option("--allow-duplicates", help="Keep both of two equal episodes.")
]
_Drop = Annotated[
    bool, typer.Option("--drop-duplicates", help="Keep only one of two equal episodes.")
]
_Licence = Annotated[str | None, typer.Option(help="Licence of the result.")]
_Name = Annotated[str | None, typer.Option(help="Name of the result.")]


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    for command, *lines in _COMMANDS:
        app.command(epilog=options.examples(*lines))(command)


def split(
    dataset: options.Dataset,
    output: Output,
    heldout: Annotated[float, typer.Option(help="Share of the episodes to hold out.")] = 0.1,
    parts: Annotated[
        str | None, typer.Option(help="Shares by name instead: train:0.8,val:0.1,test:0.1.")
    ] = None,
    seed: options.Seed = 0,
    stratify: Annotated[
        str, typer.Option(help="Balance the parts by return, noise, expert, won or none.")
    ] = "return",
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Split the episodes into training and held-out sets.

    Whole episodes are assigned by a seed; episodes with the same seed stay together. The split is
    stored in the new dataset.
    """
    from kd_offline.datasets.edit import split as splitting

    shares = None if parts is None else splitting.parse_parts(parts)
    make(
        lambda observers: splitting.split(
            dataset,
            output,
            heldout=heldout,
            parts=shares,
            seed=seed,
            stratify=stratify,
            resume=resume,
            overwrite=overwrite,
            observers=observers,
        ),
        output,
        json,
    )


def filter(
    dataset: options.Dataset,
    output: Output,
    where: Annotated[
        str | None, typer.Option(help="Condition, such as 'return > -20 and length < 25'.")
    ] = None,
    return_above: Annotated[
        float | None, typer.Option(help="Keep episodes with a larger return.")
    ] = None,
    return_below: Annotated[
        float | None, typer.Option(help="Keep episodes with a smaller return.")
    ] = None,
    won: Annotated[bool, typer.Option("--won", help="Keep episodes that were won.")] = False,
    min_length: Annotated[int | None, typer.Option(help="Smallest number of steps.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Largest number of steps.")] = None,
    noise: Annotated[float | None, typer.Option(help="Level of behaviour noise.")] = None,
    expert: Annotated[int | None, typer.Option(help="Number of the expert.")] = None,
    split: Annotated[str | None, typer.Option(help="Part, such as train.")] = None,
    episodes: Annotated[str | None, typer.Option(help="Range of episodes, such as 0:1000.")] = None,
    top: Annotated[
        float | None,
        typer.Option(help="Share of the remaining episodes to keep, those with the best returns."),
    ] = None,
    without: _Without = None,
    name: _Name = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Keep the episodes that meet all conditions.

    Conditions name columns of the episode table: episode, length, return, return_AGENT, seed, won,
    noise_level, expert_id, split.
    """
    from kd_offline.datasets.edit import filter as filtering

    conditions = filtering.Conditions(
        where=where,
        return_above=return_above,
        return_below=return_below,
        won=won,
        min_length=min_length,
        max_length=max_length,
        noise=noise,
        expert=expert,
        split=split,
        episodes=None if episodes is None else _range(episodes),
        top=top,
    )
    make(
        lambda observers: filtering.filter(
            dataset,
            output,
            conditions,
            without=without or (),
            name=name,
            resume=resume,
            overwrite=overwrite,
            observers=observers,
        ),
        output,
        json,
    )


def merge(
    datasets: _Datasets,
    output: _Merged,
    virtual: _Virtual = False,
    arrays: _Arrays = "all",
    without: _Without = None,
    allow_duplicates: _Allow = False,
    drop_duplicates: _Drop = False,
    licence: _Licence = None,
    name: _Name = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Merge several datasets into one.

    Seeds, experts, noise, splits and masks are kept. Datasets that do not fit each other are
    refused with all reasons.
    """
    from kd_offline.datasets.edit.merge import merge as put_together
    from kd_offline.datasets.sharing.virtual import virtual_merge

    given: dict[str, Any] = {
        "arrays": arrays,
        "without": without or (),
        "duplicates": _duplicates(allow_duplicates, drop_duplicates),
        "licence": licence,
        "name": name,
        "overwrite": overwrite,
    }
    if virtual:  # it is made in one go, so repeating it is continuing it
        put = partial(virtual_merge, datasets, output, **given)
    else:
        put = partial(put_together, datasets, output, resume=resume, **given)
    make(lambda observers: put(observers=observers), output, json)


def append(
    dataset: options.Dataset,
    more: _More,
    output: Output,
    arrays: _Arrays = "all",
    without: _Without = None,
    allow_duplicates: _Allow = False,
    drop_duplicates: _Drop = False,
    licence: _Licence = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write the next version of a dataset, with more episodes.

    As merge, but the result keeps name and description of the first dataset. The first dataset
    itself does not change.
    """
    from kd_offline.datasets.edit.merge import append as continued

    make(
        lambda observers: continued(
            dataset,
            more,
            output,
            arrays=arrays,
            without=without or (),
            duplicates=_duplicates(allow_duplicates, drop_duplicates),
            licence=licence,
            resume=resume,
            overwrite=overwrite,
            observers=observers,
        ),
        output,
        json,
    )


_COMMANDS: tuple[tuple[Callable[..., None], *tuple[str, ...]], ...] = (
    (
        split,
        "kd-offline split dataset.zarr -o split.zarr --heldout 0.1 --seed 1",
        "kd-offline split dataset.zarr -o split.zarr --parts train:0.8,val:0.1,test:0.1",
    ),
    (
        filter,
        "kd-offline filter dataset.zarr -o best.zarr --top 0.1",
        "kd-offline filter dataset.zarr -o clean.zarr --noise 0 --without embedding",
        "kd-offline filter dataset.zarr -o some.zarr --where 'return > -20 and length in [25, 50]'",
    ),
    (
        merge,
        "kd-offline merge a.zarr b.zarr -o both.zarr",
        "kd-offline merge a.zarr b.zarr -o both.zarr --arrays common --drop-duplicates",
        "kd-offline merge --virtual shards/*.zarr -o whole.zarr",
    ),
    (append, "kd-offline append dataset.zarr more.zarr -o dataset-1.1.zarr"),
)


def make(
    operation: Callable[[list[Observer]], DatasetManifest],
    output: str | Path,
    json: bool,
) -> None:
    """Run an operation under a progress bar and print what came out."""
    from kd_offline.datasets.format.layout import JOURNAL

    kept = f"what was written so far is in {output}: run the same command with --resume"
    with resumable(kept, Path(output) / JOURNAL):
        manifest = operation([terminal()])
    from kd_offline.datasets.metadata.summary import size_bytes
    from kd_offline.datasets.reading.reader import ExpertBuffer
    from kd_offline.schemas.dataset_outputs import EditOutput

    step, figures = manifest.lineage[-1], manifest.statistics
    done = EditOutput(
        id=manifest.id,
        path=str(output),
        operation=step.operation,
        parents=step.parents,
        episodes=figures.episodes,
        steps=figures.steps,
        bytes=size_bytes(ExpertBuffer.open(output)),
        left_out=step.arguments.get("left_out", ()),
    )
    if json:
        emit(done)
        return
    say(f"{done.episodes:,} episodes, {done.steps:,} steps, {done.bytes / 1e6:.1f} MB")
    if done.left_out:
        say(f"left out: {', '.join(done.left_out)}")
    say(done.id)
    show(done.path)


def _duplicates(allow: bool, drop: bool) -> str:
    if allow and drop:
        msg = "--allow-duplicates and --drop-duplicates exclude each other: give one of them"
        raise UsageError(msg)
    return "keep" if allow else "drop" if drop else "refuse"


def _range(text: str) -> tuple[int, int]:
    try:
        first, stop = (int(part) for part in text.split(":"))
    except ValueError:
        msg = f"--episodes {text!r} is not a range: write FIRST:STOP, such as 0:1000"
        raise UsageError(msg) from None
    return first, stop
