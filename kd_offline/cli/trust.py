"""``sign`` and ``croissant``: sign a dataset, and describe it for catalogues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.output import document, emit, say, show
from kd_offline.untrusted_text import for_json

if TYPE_CHECKING:
    from kd_offline.schemas.dataset import DatasetManifest, SignatureRecord

CheckSignature = Annotated[
    bool, typer.Option("--signature", help="Check the signature beside the dataset as well.")
]
SignatureFile = Annotated[
    Path | None,
    typer.Option("--signature-file", help="Signature that lies elsewhere.  [default: DATASET.sig]"),
]
AllowedSigners = Annotated[
    Path | None, typer.Option(help="Whose signatures count: a list as ssh-keygen reads it.")
]
PublicKey = Annotated[
    str | None, typer.Option(help="Whose signature counts: a .pub file or its line.")
]


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(
        epilog=options.examples(
            "kd-offline sign dataset.zarr",
            "kd-offline sign dataset.zarr --key ~/.ssh/id_rsa -o dataset.zarr.sig",
            "kd-offline sign dataset.zarr --text |",
            "    ssh-keygen -Y sign -n kd-offline-dataset -f KEY > dataset.zarr.sig",
        )
    )(sign)
    app.command(
        epilog=options.examples(
            "kd-offline croissant dataset.zarr -o croissant.json",
            "kd-offline croissant dataset.zarr --url https://example.org/dataset.zarr "
            "--creator 'Ada Lovelace'",
        )
    )(croissant)


def sign(
    dataset: options.Dataset,
    key: Annotated[
        Path, typer.Option(help="SSH private key: Ed25519, ECDSA or RSA, without a passphrase.")
    ] = Path("~/.ssh/id_ed25519"),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Signature file.  [default: DATASET.sig]"),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Print the text to be signed and sign nothing.")
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Sign a dataset with an SSH key.

    Vouches for its content id and its manifest; ssh-keygen -Y verify reads the signature, too.
    """
    from kd_offline.datasets.sharing import signature

    if text:
        document(signature.text_to_sign(dataset).decode("ascii"))
        return
    made = signature.sign(dataset, key, output, overwrite=overwrite)
    if json:
        emit(made)
        return
    say(f"signed {made.id} with the {made.key_type} key {made.fingerprint}")
    show(made.file)


def croissant(
    dataset: options.Dataset,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.  [default: stdout]")
    ] = None,
    url: Annotated[str, typer.Option(help="Address that the dataset is published at.")] = "",
    creator: Annotated[
        list[str] | None, typer.Option(help="Who made the dataset; repeatable.")
    ] = None,
    published: Annotated[
        str, typer.Option(metavar="YYYY-MM-DD", help="When it was published.")
    ] = "",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Describe a dataset in Croissant, the metadata that catalogues read.

    JSON-LD by Croissant 1.1: files with their sha256, fields, splits, provenance.
    """
    from json import dumps

    from kd_offline.datasets.metadata.croissant import Publication, describe, missing_fields
    from kd_offline.files import check_output, write_output

    if output is not None:
        check_output(output, overwrite=overwrite)
    made = describe(dataset, Publication(url, tuple(creator or ()), published))
    text = dumps(made, indent=2) + "\n"
    if output is None:
        document(for_json(text))
    else:
        write_output(output, text, overwrite=overwrite)
        show(output)
    if wanted := missing_fields(made):
        say(f"Croissant also wants {'; '.join(wanted)}: see --url, --creator and --published")


def checked_signature(
    dataset: str | Path,
    asked: bool,
    file: Path | None,
    allowed_signers: Path | None,
    public_key: str | None,
    manifest: DatasetManifest,
) -> SignatureRecord | None:
    """Check the signature where any of its options was given."""
    if not asked and file is None and allowed_signers is None and public_key is None:
        return None
    from kd_offline.datasets.sharing.signature import verify_signature

    return verify_signature(
        *(dataset, file), allowed_signers=allowed_signers, public_key=public_key, manifest=manifest
    )
