"""Signatures: sign datasets with SSH keys, and check who signed them.

The signed text has three lines, with the content id and the digest of the manifest. The id is what
is cited. The manifest also has names, licence, lineage and the sha256 of every file. Both must be
those of the dataset, so a corrected manifest has to be signed again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.manifest_file import read_manifest
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import Remedy, SignatureError, UsageError
from kd_offline.files import check_output, write_output
from kd_offline.schemas.dataset import DatasetManifest, SignatureRecord

if TYPE_CHECKING:
    from kd_offline.datasets.sharing.sshsig import Signature
import base64
import binascii
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

_KEY_TYPE = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+")

_TIME = re.compile(r"\d{8}(\d{4}(\d{2})?)?Z?")


@dataclass(frozen=True, slots=True)
class Signer:
    """One key that may sign, with its owner's name."""

    name: str
    key: bytes  # wire format
    namespaces: str = "*"
    after: datetime | None = None
    before: datetime | None = None

    def may_sign(self, namespace: str, now: datetime) -> bool:
        """Tell whether the key is valid in ``namespace`` at the time ``now``."""
        early = self.after is not None and now < self.after
        late = self.before is not None and now > self.before
        return not early and not late and _matches_patterns(namespace, self.namespaces)


NAMESPACE = "kd-offline-dataset"
SUFFIX = ".sig"
DEFAULT_KEY = "~/.ssh/id_ed25519"
_MAX_SIGNATURE_BYTES = 1 << 16  # an RSA key of 16384 bits needs 6 kB


def signed_text(manifest: DatasetManifest) -> bytes:
    """Return the text that is signed for a dataset."""
    lines = ("kd-offline dataset", f"id {manifest.id}", f"manifest {manifest.manifest_digest}")
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def text_to_sign(dataset: str | Path) -> bytes:
    """Return :func:`signed_text` of the dataset at an address; raises as opening it does."""
    return signed_text(read_manifest(open_files(dataset)))


def sign(
    dataset: str | Path,
    key: str | Path = DEFAULT_KEY,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
) -> SignatureRecord:
    """Sign a dataset with an SSH key: Ed25519, ECDSA or RSA, without a passphrase.

    Only the manifest is read; ``verify`` checks the files that it lists.

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

    target = Path(output) if output is not None else _default_signature_file(dataset)
    check_output(target, overwrite=overwrite)
    manifest = read_manifest(open_files(dataset))
    private = sshsig.load_private(_read_key(Path(key).expanduser()), str(key))
    signature = sshsig.create_signature(private, signed_text(manifest), NAMESPACE)
    write_output(target, signature, overwrite=overwrite)
    return _record(manifest, sshsig.public_bytes(private.public_key()), str(target))


def verify_signature(
    dataset: str | Path,
    signature: str | Path | None = None,
    *,
    allowed_signers: str | Path | None = None,
    public_key: str | Path | None = None,
    manifest: DatasetManifest | None = None,
) -> SignatureRecord:
    """Check that a trusted key signed the dataset's id and manifest; return whose key it is.

    ``verify`` checks the files that the manifest lists. Give it the same ``manifest``, because a
    server may return another one when it is asked again.

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

    signers = _trusted_signers(allowed_signers, public_key)
    where = str(signature) if signature is not None else f"{_address_without_pin(dataset)}{SUFFIX}"
    text = _read_signature(dataset, signature)
    manifest = read_manifest(open_files(dataset)) if manifest is None else manifest
    try:
        parsed = sshsig.parse_signature(text)
        owner = _trusted_signer(parsed, signers, datetime.now(UTC))
        _require_valid(parsed, manifest)
    except SignatureError as error:
        msg = f"the signature {where!r} does not vouch for the dataset at {str(dataset)!r}: {error}"
        raise SignatureError(msg) from None
    return _record(manifest, parsed.key, where, owner.name)


def _require_valid(signature: Signature, manifest: DatasetManifest) -> None:
    if not signature.check(signed_text(manifest)):
        msg = "it is of another dataset or another manifest, or it was altered"
        raise SignatureError(msg)


def _trusted_signers(allowed: str | Path | None, public: str | Path | None) -> list[Signer]:
    if (allowed is None) == (public is None):
        msg = "a signature counts only if you say whose, in one way"
        raise UsageError(msg, Remedy("give", public_key=...), Remedy("give", allowed_signers=...))
    if public is not None:
        return [read_public_key(public)]
    return read_allowed_signers(str(allowed))


def _trusted_signer(signature: Signature, signers: list[Signer], now: datetime) -> Signer:
    from kd_offline.datasets.sharing.sshsig import fingerprint

    if signature.namespace != NAMESPACE:
        msg = f"it was made for {signature.namespace!r}, not for {NAMESPACE!r}"
        raise SignatureError(msg)
    matching = [signer for signer in signers if signer.key == signature.key]
    if not matching:
        msg = (
            f"it was made by the key {fingerprint(signature.key)}, which is not among those trusted"
        )
        raise SignatureError(msg)
    for signer in matching:
        if signer.may_sign(NAMESPACE, now):
            return signer
    msg = f"the key of {matching[0].name} is not allowed to sign datasets today"
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


def _address_without_pin(dataset: str | Path) -> str:
    return split_pin(str(dataset))[0].rstrip("/")


def _default_signature_file(dataset: str | Path) -> Path:
    if is_remote(str(dataset)):
        msg = f"{str(dataset)!r} is remote, and a signature is written beside local datasets"
        raise UsageError(msg, Remedy("say where to write it with", output=...))
    return Path(_address_without_pin(dataset) + SUFFIX).expanduser()


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"cannot read the key {str(path)!r} ({error.strerror})"
        raise UsageError(msg, Remedy("give one with", key=...)) from None


def _read_signature(dataset: str | Path, signature: str | Path | None) -> bytes:
    """Return the content of the given file, or of the one beside the dataset."""
    try:
        if signature is None and is_remote(str(dataset)):
            folder, _, name = _address_without_pin(dataset).rpartition("/")
            data = open_files(folder).read(name + SUFFIX)
        else:
            file = (
                Path(signature).expanduser()
                if signature is not None
                else _default_signature_file(dataset)
            )
            with file.open("rb") as opened:
                data = opened.read(_MAX_SIGNATURE_BYTES)
    except OSError as error:
        where = signature or f"{_address_without_pin(dataset)}{SUFFIX}"
        reason = error.strerror or "there is none"
        msg = f"cannot read the signature {str(where)!r} ({reason})"
        place = Remedy("say where it is with", signature=...)
        raise SignatureError(msg, Remedy("ask the signer for it"), place) from None
    return data


def read_public_key(key: str | Path) -> Signer:
    """Return the signer of a public key, given as a ``.pub`` file or its line of text.

    Raises
    ------
    UsageError
        It cannot be read or is no public key.
    """
    key_text = str(key)
    text = (
        key_text
        if _KEY_TYPE.match(key_text) and " " in key_text
        else _read_text_file(Path(key_text).expanduser())
    )
    fields = text.split(maxsplit=2)
    wire_key = _decode_public_key(fields[:2])
    if wire_key is None:
        msg = f"{key_text!r} holds no public key: give the file that ends in .pub, or its line"
        raise UsageError(msg)
    return Signer(fields[2].strip() if len(fields) > 2 else key_text, wire_key)


def read_allowed_signers(path: str | Path) -> list[Signer]:
    """Return the signers of an ``allowed_signers`` file, without certificate authorities.

    Raises
    ------
    UsageError
        It cannot be read, or a line is not what ssh-keygen's manual describes.
    """
    signers: list[Signer] = []
    for number, line in enumerate(_read_text_file(Path(path).expanduser()).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            signers += _signers(line)
        except ValueError:
            msg = (
                f"line {number} of {str(path)!r} is not an allowed signer: write it as "
                'alice@example.org namespaces="kd-offline-dataset" ssh-ed25519 AAAA...'
            )
            raise UsageError(msg) from None
    return signers


def _signers(line: str) -> Iterator[Signer]:
    fields = _fields(line)
    options = {} if _KEY_TYPE.fullmatch(fields[1]) else _options(fields.pop(1))
    key = _decode_public_key(fields[1:3])
    if key is None:
        raise ValueError
    if "cert-authority" not in options:
        yield Signer(
            fields[0],
            key,
            options.get("namespaces", "*"),
            _time(options.get("valid-after")),
            _time(options.get("valid-before")),
        )


def _fields(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.quotes, lexer.commenters, lexer.escape = True, '"', "", ""
    fields = list(lexer)
    if len(fields) < 3:
        raise ValueError
    return fields


def _options(text: str) -> dict[str, str]:
    """Return the options of a text such as ``namespaces=a,b,valid-after=20250101``."""
    options: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals or name.lower() == "cert-authority":
            last = name.lower()
            options[last] = value
        elif last == "namespaces":
            options[last] += f",{part}"
        else:
            raise ValueError
    if not options.keys() <= {"cert-authority", "namespaces", "valid-after", "valid-before"}:
        raise ValueError
    return options


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    if not _TIME.fullmatch(text):
        raise ValueError
    digits = text.removesuffix("Z")
    when = datetime.strptime(digits.ljust(14, "0"), "%Y%m%d%H%M%S")
    return when.astimezone() if digits == text else datetime.fromisoformat(f"{when}+00:00")


def _decode_public_key(fields: list[str]) -> bytes | None:
    """Return the key of ``["ssh-ed25519", "AAAA..."]``, or None if it is not one."""
    if len(fields) < 2 or not _KEY_TYPE.fullmatch(fields[0]):
        return None
    try:
        return base64.b64decode(fields[1], validate=True)
    except (binascii.Error, ValueError):
        return None


def _matches_patterns(namespace: str, patterns: str) -> bool:
    """Tell whether a pattern matches, and none of those that begin with ``!``."""
    listed = patterns.split(",")
    refused = (p[1:] for p in listed if p.startswith("!"))
    return not any(fnmatchcase(namespace, p) for p in refused) and any(
        fnmatchcase(namespace, p) for p in listed
    )


def _read_text_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        msg = f"cannot read {str(path)!r} ({reason}): check the path"
        raise UsageError(msg) from None
