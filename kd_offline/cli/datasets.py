"""``inspect`` and ``verify``: what a dataset holds and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import options, provenance_checks, trust
from kd_offline.cli.output import emit, say_error, show, terminal
from kd_offline.errors import EXIT_FAILED, CorruptDatasetError

if TYPE_CHECKING:
    from kd_offline.datasets.reading.reader import ExpertBuffer


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(
        epilog=options.examples(
            "kd-offline inspect dataset.zarr",
            "kd-offline inspect dataset.zarr --json",
            "kd-offline inspect dataset.zarr --html dataset.html",
        )
    )(inspect)
    app.command(
        epilog=options.examples(
            "kd-offline verify dataset.zarr",
            "kd-offline verify dataset.zarr --quick --json",
            "kd-offline verify dataset.zarr --signature --public-key alice.pub",
            "kd-offline verify dataset.zarr --replay 100 --relabel 100",
            "kd-offline verify dataset.zarr --relabel 100 --expert expert/",
        )
    )(verify)


def inspect(
    dataset: options.Dataset,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with plots and playback to this file.")
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show what a dataset holds.

    Reads the manifest alone; with --html every step once, and needs no environment or expert.
    """
    from kd_offline.datasets.metadata.summary import render, summarise
    from kd_offline.datasets.reading.reader import ExpertBuffer

    buffer = ExpertBuffer.open(dataset)
    if html is not None:
        _write_page(buffer, html, overwrite, quiet)
    if json:
        emit(summarise(buffer))
    else:
        show(*render(buffer) if html is None else [html])


def _write_page(buffer: ExpertBuffer, html: Path, overwrite: bool, quiet: bool) -> None:
    from kd_offline.reports.dataset import inspect_html

    inspect_html(buffer, html, overwrite=overwrite, observers=[terminal()])


def verify(
    dataset: options.Dataset,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare the files, decode no values.")
    ] = False,
    signature: trust.CheckSignature = False,
    signature_file: trust.SignatureFile = None,
    allowed_signers: trust.AllowedSigners = None,
    public_key: trust.PublicKey = None,
    replay: provenance_checks.Replay = None,
    relabel: provenance_checks.Relabel = None,
    expert: provenance_checks.Experts = None,
    expert_recipe: options.ExpertRecipe = None,
    opponents: options.RecordedOpponents = None,
    environment: options.RecordedEnvironment = None,
    seed: provenance_checks.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Check that a dataset is whole, and that it is what it says.

    Every file, checksum, content digest and rule of the format. With --replay and --relabel also
    that the environment and the expert give what was recorded. Exit code 1 where one fails.
    """
    from kd_offline.datasets.storage.manifest_file import read_manifest
    from kd_offline.datasets.storage.sources import open_files
    from kd_offline.datasets.validation.integrity import damaged
    from kd_offline.datasets.validation.integrity import verify as check

    signed = None
    try:
        # Every check is of this one manifest: a server may show another when it is asked again.
        manifest = read_manifest(open_files(dataset, cached=False))
    except CorruptDatasetError as error:
        report = damaged(error)
    else:
        signed = trust.checked_signature(
            *(dataset, signature, signature_file, allowed_signers, public_key), manifest
        )
        report = check(dataset, quick=quick, manifest=manifest)
        report = report.model_copy(update={"signature": signed})
        place = (dataset, manifest)
        if replay is not None:
            report = provenance_checks.replayed(report, place, replay, seed, environment)
        if relabel is not None:
            asked = (expert or (), expert_recipe, opponents or ())
            report = provenance_checks.relabelled(report, place, relabel, seed, asked)
    if json:
        emit(report)
        if not report.ok:
            raise typer.Exit(EXIT_FAILED)
        return
    provenance_checks.tell(report)
    if report.ok:
        if signed is not None:
            show(f"signed by {signed.signer} ({signed.key_type} {signed.fingerprint})")
        show("whole: every check passed" if not quick else "whole: the files are right")
        return
    for problem in report.problems:
        show(f"{problem.where}: {problem.what}")
    found = len(report.problems)
    say_error(
        f"{found} problem{'s' * (found != 1)} in {dataset}: get a fresh copy"
        if found
        else f"{dataset} does not hold what was recorded: ask its makers"
    )
    raise typer.Exit(EXIT_FAILED)
