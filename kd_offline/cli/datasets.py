"""``inspect`` and ``verify``: what a dataset holds and whether it is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from kd_offline.cli import options, trust
from kd_offline.cli.output import emit, say
from kd_offline.errors import EXIT_FAILED


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(
        epilog=options.examples(
            "kd-offline inspect dataset.zarr", "kd-offline inspect dataset.zarr --json"
        )
    )(inspect)
    app.command(
        epilog=options.examples(
            "kd-offline verify dataset.zarr",
            "kd-offline verify dataset.zarr --quick --json",
            "kd-offline verify dataset.zarr --signature --public-key alice.pub",
        )
    )(verify)


def inspect(
    dataset: options.Dataset, json: options.Json = False, debug: options.Debug = False
) -> None:
    """Show what a dataset holds."""
    from kd_offline.datasets.reader import ExpertBuffer
    from kd_offline.datasets.summary import render, summarise

    buffer = ExpertBuffer.open(dataset)
    if json:
        emit(summarise(buffer))
    else:
        typer.echo(render(buffer))


def verify(
    dataset: options.Dataset,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare the files, decode no values.")
    ] = False,
    signature: trust.CheckSignature = False,
    signature_file: trust.SignatureFile = None,
    allowed_signers: trust.AllowedSigners = None,
    public_key: trust.PublicKey = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check that a dataset is whole.

    Every file, checksum, content digest and rule of the format; exit code 1 where one fails.
    """
    from kd_offline.datasets.integrity import verify as check

    signed = trust.checked_signature(
        dataset, signature, signature_file, allowed_signers, public_key
    )
    report = check(dataset, quick=quick).model_copy(update={"signature": signed})
    if json:
        emit(report)
    elif report.ok:
        if signed is not None:
            typer.echo(f"signed by {signed.signer} ({signed.key_type} {signed.fingerprint})")
        typer.echo("whole: every check passed" if not quick else "whole: the files are right")
    else:
        for problem in report.problems:
            typer.echo(f"{problem.where}: {problem.what}")
        say(f"error: {len(report.problems)} problems in {dataset}: get a fresh copy")
    if not report.ok:
        raise typer.Exit(EXIT_FAILED)
