"""``push``, ``pull``, ``pack`` and ``cache``: datasets from one place to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show, terminal
from kd_offline.errors import UsageError

if TYPE_CHECKING:
    from kd_offline.schemas.dataset_outputs import TransferOutput

_KEPT = "what has arrived is kept and is no dataset yet: run the same command again to continue"


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(
        epilog=options.examples(
            "kd-offline push dataset.zarr /mnt/shared/dataset.zarr",
            "kd-offline push dataset.zarr s3://bucket/dataset.zarr",
            "kd-offline push dataset.zarr hf://datasets/lab/dataset",
        )
    )(push)
    app.command(
        epilog=options.examples(
            "kd-offline pull https://example.org/dataset.zarr",
            "kd-offline pull s3://bucket/dataset.zarr@sha256:5eaf9f3174e7 -o dataset.zarr",
            "kd-offline pull hf://datasets/lab/dataset -o part.zarr --arrays logits,actions,obs",
        )
    )(pull)
    app.command(epilog=options.examples("kd-offline pack dataset.zarr -o dataset.zarr.zip"))(pack)
    app.command(epilog=options.examples("kd-offline cache", "kd-offline cache --clear"))(cache)


def push(
    dataset: options.Dataset,
    destination: Annotated[
        str, typer.Argument(help="Folder, .zip file, s3://, gs://, az:// or hf:// address.")
    ],
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Copy a dataset to a folder, a file or an address.

    Damaged data are refused. Files that are already there are not sent again. The manifest is sent
    last, so an incomplete copy is not a dataset.
    """
    from kd_offline.datasets.sharing.share import push as send

    with resumable(_KEPT):
        done = send(dataset, destination, overwrite=overwrite, observers=[terminal()])
    _finish(done, json)


def pull(
    address: Annotated[str, typer.Argument(help="Address of a dataset, optionally with its id.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Folder or .zip file.  [default: name of the dataset]"),
    ] = None,
    arrays: Annotated[
        str | None,
        typer.Option(help="Fetch only these arrays, such as logits,obs, and the required ones."),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Fetch a dataset, or some of its arrays.

    Every file is checked before the copy becomes a dataset. ADDRESS@sha256:ID accepts only the
    dataset with this id.
    """
    from kd_offline.datasets.sharing.share import pull as fetch

    wanted = None if arrays is None else _names(arrays)
    with resumable(_KEPT):
        done = fetch(address, output, arrays=wanted, overwrite=overwrite, observers=[terminal()])
    _finish(done, json)


def pack(
    dataset: options.Dataset,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File.  [default: DATASET.zip]")
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a dataset into one file.

    Commands read the file like a folder; pull unpacks it. The same dataset always gives the same
    bytes.
    """
    from kd_offline.datasets.sharing.share import pack as put

    _finish(put(dataset, output, overwrite=overwrite), json)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete everything in it.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show the cache of fetched files.

    KD_OFFLINE_CACHE is its folder ("off" for none), KD_OFFLINE_CACHE_GB its largest size in GB.
    """
    from kd_offline.datasets.storage.cache import default_cache
    from kd_offline.schemas.dataset_outputs import CacheOutput

    kept = default_cache()
    if kept is None:
        msg = "there is no cache, since KD_OFFLINE_CACHE is off: unset it or name a folder"
        raise UsageError(msg)
    if clear:
        kept.clear()
    files, size = kept.usage()
    if json:
        emit(CacheOutput(path=str(kept.root), files=files, bytes=size, limit_bytes=kept.limit))
        return
    show(f"{files:,} files, {size / 1e6:,.1f} MB of at most {kept.limit / 1e9:,.1f} GB", kept.root)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        msg = f"--arrays {text!r} names no array: write it as logits,actions,obs"
        raise UsageError(msg)
    return names


def _finish(done: TransferOutput, json: bool) -> None:
    if json:
        emit(done)
        return
    say(
        f"{done.files:,} files of {done.id[:19]} in {done.seconds:.1f} s: "
        f"{done.bytes_moved:,} bytes moved, {done.bytes_skipped:,} there already"
    )
    show(done.destination)
