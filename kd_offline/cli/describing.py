"""``diff``, ``card``, ``annotate`` and ``relabel-masks``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.editing import Output, make
from kd_offline.cli.output import emit, markdown, show, terminal
from kd_offline.errors import EXIT_FAILED


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(
        epilog=options.examples(
            "kd-offline diff a.zarr b.zarr", "kd-offline diff a.zarr b.zarr --quick --json"
        )
    )(diff)
    app.command(
        epilog=options.examples(
            "kd-offline card dataset.zarr", "kd-offline card dataset.zarr -o README.md"
        )
    )(card)
    app.command(
        epilog=options.examples(
            "kd-offline annotate dataset.zarr -o named.zarr --licence CC-BY-4.0 --name spread-mappo"
        )
    )(annotate)
    app.command(
        "relabel-masks",
        epilog=options.examples(
            "kd-offline relabel-masks dataset.zarr -o masked.zarr --mask random-6",
            "kd-offline relabel-masks dataset.zarr -o masked.zarr --mask near-sighted.toml",
        ),
    )(relabel_masks)


def diff(
    a: Annotated[str, typer.Argument(help="First dataset.")],
    b: Annotated[str, typer.Argument(help="Second dataset.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare manifests and episodes without values.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show the differences between two datasets.

    Exit code 0 if the contents (the ids) are equal, even if the descriptions differ, and else 1.
    """
    from kd_offline.datasets.edit.comparison import diff as compare
    from kd_offline.datasets.edit.comparison import render

    report = compare(a, b, values=not quick, observers=[terminal()])
    if json:
        emit(report, nulls=True)
    else:
        show(*render(report))
    if not report.equal:
        raise typer.Exit(EXIT_FAILED)


def card(
    dataset: options.Dataset,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.  [default: the screen]")
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a dataset card in Markdown, with the header that the Hugging Face Hub reads."""
    from kd_offline.datasets.metadata.cards import card as write
    from kd_offline.datasets.reading.reader import ExpertBuffer
    from kd_offline.schemas.dataset_outputs import CardOutput

    buffer = ExpertBuffer.open(dataset)
    text = write(buffer, output, overwrite=overwrite)
    if json:
        path = None if output is None else str(output)
        emit(CardOutput(id=buffer.id, path=path, text=text))
    elif output is None:
        markdown(text)
    else:
        show(output)


def relabel_masks(
    dataset: options.Dataset,
    output: Output,
    masks: Annotated[
        list[str],
        typer.Option("--mask", help="Student mask to add: a name or a .toml file; repeatable."),
    ],
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Add student masks without recording again."""
    from kd_offline.recording.add_masks import relabel_masks as relabel

    make(
        lambda observers: relabel(
            dataset, output, masks, resume=resume, overwrite=overwrite, observers=observers
        ),
        output,
        json,
    )


def annotate(
    dataset: options.Dataset,
    output: Output,
    name: Annotated[str | None, typer.Option(help="Name.")] = None,
    version: Annotated[str | None, typer.Option(help="Version, such as 1.2.0.")] = None,
    description: Annotated[str | None, typer.Option(help="Description of the dataset.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence, such as CC-BY-4.0.")] = None,
    citation: Annotated[str | None, typer.Option(help="How to cite the dataset.")] = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Change name, version, description, licence or citation of a dataset; its id stays."""
    from kd_offline.datasets.edit.annotate import annotate as say_anew

    make(
        lambda observers: say_anew(
            dataset,
            output,
            name=name,
            version=version,
            description=description,
            licence=licence,
            citation=citation,
            resume=resume,
            overwrite=overwrite,
            observers=observers,
        ),
        output,
        json,
    )
