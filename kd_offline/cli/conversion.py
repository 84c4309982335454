"""``convert``: other formats, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd_offline.cli import options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show, terminal

if TYPE_CHECKING:
    from kd_offline.schemas.dataset_outputs import ConvertOutput
    from kd_offline.schemas.environment import EnvironmentSpec

_EXAMPLES = options.examples(
    "kd-offline convert dataset.zarr -o dataset.hdf5",
    "kd-offline convert dataset.hdf5 -o copy.zarr",
    "kd-offline convert dataset.zarr -o vaults/spread.vlt/Expert",
    "kd-offline convert dataset.zarr -o datasets/spread-v0 --to minari",
    "kd-offline convert dataset.zarr -o agent.hdf5 --to d4rl --agent agent_0",
    "kd-offline convert 3m.vlt/Good -o 3m.zarr --name smac/3m",
)


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(convert)


_Source = Annotated[str, typer.Argument(help="Dataset to read, of any format.")]
_Target = Annotated[Path, typer.Option("--output", "-o", help="Dataset to write.")]
_To = Annotated[
    str | None,
    typer.Option(
        help="expert-buffer, hdf5, vault, minari, d4rl or d3rlpy.  [default: as the path says]"
    ),
]
_From = Annotated[
    str | None,
    typer.Option("--from", help="Format of the source.  [default: as its files say]"),
]
_World = Annotated[
    str | None,
    typer.Option("--environment", help="Environment of an imported dataset, see kd-offline envs."),
]
_Spec = Annotated[
    Path | None, typer.Option("--spec", help="The same from a JSON file, see schemas/.")
]
_Agent = Annotated[str | None, typer.Option(help="Export this agent alone (d4rl, d3rlpy).")]
_Name = Annotated[str | None, typer.Option(help="Name of an imported dataset.")]
_Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse where the target cannot hold everything.")
]


def convert(
    source: _Source,
    output: _Target,
    to: _To = None,
    source_format: _From = None,
    environment: _World = None,
    environment_kwargs: options.Environment = None,
    spec: _Spec = None,
    agent: _Agent = None,
    name: _Name = None,
    strict: _Strict = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Convert a dataset to or from another format.

    Data that the target cannot hold are listed. HDF5 is read by a large library in C: convert only
    HDF5 files from people you trust.
    """
    arguments = {
        "to": to,
        "source_format": source_format,
        "spec": _described(environment, environment_kwargs, spec),
        "agent": agent,
        "name": name,
        "strict": strict,
        "overwrite": overwrite,
    }
    done = _run(source, output, arguments, quiet)
    if json:
        emit(done)
        return
    for item in done.not_held:
        say(f"not held: {item.array} ({item.why})")
    for note in done.notes:
        say(f"note: {note}")
    kinds = f"{done.source_kind} to {done.target_kind}"
    say(f"{done.episodes:,} episodes, {done.steps:,} steps, {kinds}")
    show(output)


def _run(source: str, output: Path, arguments: dict[str, Any], quiet: bool) -> ConvertOutput:
    from kd_offline.datasets.convert.convert import convert as run

    nothing = "nothing was written: run the same command again"
    with resumable(nothing):
        return run(source, output, observers=[terminal()], **arguments)


def _described(
    environment: str | None, settings: list[str] | None, spec: Path | None
) -> EnvironmentSpec | Path | None:
    """Return the environment that the user names, or the file that describes it."""
    from kd_offline.errors import UsageError

    if environment is None:
        if settings:
            msg = "--env sets an environment's settings: give --environment as well"
            raise UsageError(msg)
        return spec
    if spec is not None:
        msg = "--environment and --spec say the same: give one of them"
        raise UsageError(msg)
    from kd_offline.environments import load

    return load(environment, **options.assignments(settings)).spec
