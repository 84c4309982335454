"""``sign`` and ``verify --signature``: who vouches for a dataset.

What is signed is a text of three lines that names the content id and the digest of the manifest.
The id is what is cited; the manifest also carries names, licence, lineage and the sha256 of every
file. Both must be those of the dataset, so a corrected manifest is signed again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.datasets.format.manifest import read_manifest
from kd_offline.datasets.sharing.signers import Signer, read_allowed_signers, read_public_key
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import SignatureError, UsageError
from kd_offline.files import check_output, write_output
from kd_offline.schemas.dataset import DatasetManifest, SignatureRecord

if TYPE_CHECKING:
    from kd_offline.datasets.sharing.sshsig import Signature

NAMESPACE = "kd-offline-dataset"
SUFFIX = ".sig"
DEFAULT_KEY = "~/.ssh/id_ed25519"
_LARGEST = 1 << 16  # bytes of a signature file; an RSA key of 16384 bits needs 6 kB


def signed_text(manifest: DatasetManifest) -> bytes:
    """Return the text that a signature of the dataset signs."""
    lines = ("kd-offline dataset", f"id {manifest.id}", f"manifest {manifest.manifest_digest}")
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def text_of(dataset: str | Path) -> bytes:
    """Return :func:`signed_text` of the dataset at an address; raises as opening it does."""
    return signed_text(read_manifest(open_files(dataset)))


def sign(
    dataset: str | Path,
    key: str | Path = DEFAULT_KEY,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
) -> SignatureRecord:
    """Sign a dataset with an SSH key: an Ed25519, ECDSA or RSA one without a passphrase.

    Only the manifest is read: whether the files are those that it lists is for ``verify``.

    Parameters
    ----------
    dataset
        Address of the dataset.
    key
        Private key file.
    output
        Signature file; default: the address with ``.sig``, beside the dataset.
    overwrite
        Replace a file that is there.

    Raises
    ------
    UsageError
        The key cannot be used, or ``output`` must be given because the dataset is remote.
    DatasetError
        There is no whole dataset at the address.
    StorageError
        There is a file already, or the signature cannot be written.
    """
    from kd_offline.datasets.sharing import sshsig

    target = Path(output) if output is not None else _beside(dataset)
    check_output(target, overwrite=overwrite)
    manifest = read_manifest(open_files(dataset))
    private = sshsig.load_private(_read_key(Path(key).expanduser()), str(key))
    made = sshsig.make(private, signed_text(manifest), NAMESPACE)
    write_output(target, made, overwrite=overwrite)
    return _record(manifest, sshsig.public_bytes(private.public_key()), str(target))


def verify_signature(
    dataset: str | Path,
    signature: str | Path | None = None,
    *,
    allowed_signers: str | Path | None = None,
    public_key: str | Path | None = None,
    manifest: DatasetManifest | None = None,
) -> SignatureRecord:
    """Check that a trusted key signed the dataset's id and manifest, and say whose it is.

    Whether the files are those that the manifest lists is for ``verify``, which is given the same
    ``manifest``: a server may show another one when it is asked again.

    Parameters
    ----------
    dataset
        Address of the dataset.
    signature
        Signature file; default: the address with ``.sig``, beside the dataset.
    allowed_signers
        File of OpenSSH's format: names and keys of those who are trusted.
    public_key
        The one key that is trusted: a ``.pub`` file or its line of text.
    manifest
        The dataset's, where it was read before; default: what is there now.

    Raises
    ------
    SignatureError
        There is no signature, or it is another dataset's, altered, or of nobody trusted.
    UsageError
        Nobody was named whom to trust, or the keys cannot be read.
    DatasetError
        There is no whole dataset at the address.
    """
    from kd_offline.datasets.sharing import sshsig

    signers = _trusted(allowed_signers, public_key)
    where = str(signature) if signature is not None else f"{_plain(dataset)}{SUFFIX}"
    text = _read_signature(dataset, signature)
    manifest = read_manifest(open_files(dataset)) if manifest is None else manifest
    try:
        found = sshsig.parse(text)
        owner = _owner(found, signers, datetime.now(UTC))
        _check(found, manifest)
    except SignatureError as error:
        msg = f"the signature {where!r} does not vouch for the dataset at {str(dataset)!r}: {error}"
        raise SignatureError(msg) from None
    return _record(manifest, found.key, where, owner.name)


def _check(found: Signature, manifest: DatasetManifest) -> None:
    if not found.check(signed_text(manifest)):
        msg = "it is of another dataset or another manifest, or it was altered"
        raise SignatureError(msg)


def _trusted(allowed: str | Path | None, public: str | Path | None) -> list[Signer]:
    if (allowed is None) == (public is None):
        msg = (
            "a signature counts only if you say whose: give --public-key KEY.pub or "
            "--allowed-signers FILE, one of the two"
        )
        raise UsageError(msg)
    if public is not None:
        return [read_public_key(public)]
    return read_allowed_signers(str(allowed))


def _owner(found: Signature, signers: list[Signer], now: datetime) -> Signer:
    from kd_offline.datasets.sharing.sshsig import fingerprint

    if found.namespace != NAMESPACE:
        msg = f"it was made for {found.namespace!r}, not for {NAMESPACE!r}"
        raise SignatureError(msg)
    known = [signer for signer in signers if signer.key == found.key]
    if not known:
        msg = f"it was made by the key {fingerprint(found.key)}, which is not among those trusted"
        raise SignatureError(msg)
    for signer in known:
        if signer.may_sign(NAMESPACE, now):
            return signer
    msg = f"the key of {known[0].name} is not allowed to sign datasets today"
    raise SignatureError(msg)


def _record(
    manifest: DatasetManifest, key: bytes, file: str, signer: str | None = None
) -> SignatureRecord:
    from kd_offline.datasets.sharing.sshsig import fingerprint, key_type

    return SignatureRecord(
        id=manifest.id,
        manifest_digest=manifest.manifest_digest,
        file=file,
        signer=signer,
        key_type=key_type(key),
        fingerprint=fingerprint(key),
    )


def _plain(dataset: str | Path) -> str:
    return split_pin(str(dataset))[0].rstrip("/")


def _beside(dataset: str | Path) -> Path:
    if is_remote(str(dataset)):
        msg = f"{str(dataset)!r} is remote: say with --output where to write the signature"
        raise UsageError(msg)
    return Path(_plain(dataset) + SUFFIX).expanduser()


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"cannot read the key {str(path)!r} ({error.strerror}): give one with --key"
        raise UsageError(msg) from None


def _read_signature(dataset: str | Path, signature: str | Path | None) -> bytes:
    """Return the content of the file given, or of the one beside the dataset."""
    try:
        if signature is None and is_remote(str(dataset)):
            folder, _, name = _plain(dataset).rpartition("/")
            data = open_files(folder).read(name + SUFFIX)
        else:
            file = Path(signature).expanduser() if signature is not None else _beside(dataset)
            with file.open("rb") as opened:
                data = opened.read(_LARGEST)
    except OSError as error:
        where = signature or f"{_plain(dataset)}{SUFFIX}"
        reason = error.strerror or "there is none"
        msg = (
            f"cannot read the signature {str(where)!r} ({reason}): ask the signer for it, or say "
            "with --signature-file where it is"
        )
        raise SignatureError(msg) from None
    return data
