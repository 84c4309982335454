"""Detached signatures in the format of ``ssh-keygen -Y sign``; cryptography does the mathematics.

The layout is that of OpenSSH's ``PROTOCOL.sshsig``, version 1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_offline.errors import MissingExtraError, SignatureError, UsageError

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import (
        decode_dss_signature,
        encode_dss_signature,
    )
except ImportError as error:
    raise MissingExtraError(
        library="cryptography", extra="share", purpose="signing and checking signatures"
    ) from error

if TYPE_CHECKING:
    PrivateKey = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    PublicKey = ed25519.Ed25519PublicKey | rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
_MAGIC = b"SSHSIG"
_LINE = 70  # characters of base64 on a line, as OpenSSH writes them
_SECURITY_KEY = "sk-ssh-ed25519@openssh.com"
_DIGESTS = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}  # of the message
_RSA: dict[str, hashes.HashAlgorithm] = {
    "rsa-sha2-256": hashes.SHA256(),
    "rsa-sha2-512": hashes.SHA512(),
}
_CURVES: dict[str, hashes.HashAlgorithm] = {
    "ecdsa-sha2-nistp256": hashes.SHA256(),
    "ecdsa-sha2-nistp384": hashes.SHA384(),
    "ecdsa-sha2-nistp521": hashes.SHA512(),
}
ALLOWED = "allowed are ed25519, ecdsa and rsa keys"


@dataclass(frozen=True, slots=True)
class Signature:
    """The parts of a signature file, which is not verified before :meth:`check`."""

    key: bytes  # public key in SSH's wire format
    namespace: str
    digest: str  # name of the message's digest
    kind: str  # of the signature: ssh-ed25519, rsa-sha2-512, ...
    blob: bytes
    rest: bytes  # of a security key: its flags and counter

    def check(self, message: bytes) -> bool:
        """Tell whether the holder of ``key`` signed ``message`` in ``namespace``.

        Raises
        ------
        SignatureError
            The key is of a kind that is not known here.
        """
        data = _signed_data(message, self.namespace, self.digest)
        try:
            if key_type(self.key) == _SECURITY_KEY:
                data = _by_security_key(self, data)
            _verify(_load_public(self.key), self.kind, self.blob, data)
        except (InvalidSignature, ValueError):
            return False
        return True


def create_signature(key: PrivateKey, message: bytes, namespace: str) -> bytes:
    """Return the signature of ``message`` as an armoured text."""
    kind, blob = _sign(key, _signed_data(message, namespace, "sha512"))
    parts = (public_bytes(key.public_key()), namespace.encode(), b"", b"sha512")
    frame = _MAGIC + (1).to_bytes(4, "big") + _strings(*parts, _strings(kind.encode(), blob))
    text = base64.b64encode(frame)
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return b"\n".join([_BEGIN, *lines, _END, b""])


def parse_signature(text: bytes) -> Signature:
    """Return the parts of a signature file.

    Raises
    ------
    SignatureError
        It is not an SSH signature of version 1.
    """
    try:
        frame = _decode_armour(text)
        if frame[: len(_MAGIC) + 4] != _MAGIC + (1).to_bytes(4, "big"):
            raise ValueError  # noqa: TRY301
        key, namespace, _, digest, signature = _split(frame[len(_MAGIC) + 4 :], 5)
        kind, blob = _split(signature, 2, exactly=False)
        rest = signature[8 + len(kind) + len(blob) :]
        parsed = Signature(key, namespace.decode(), digest.decode(), kind.decode(), blob, rest)
        if bool(rest) != parsed.kind.startswith("sk-"):
            raise ValueError  # noqa: TRY301
    except ValueError:  # also wrong base64, and text that is not UTF-8
        msg = "it is not an SSH signature: make it with kd-offline sign or ssh-keygen -Y sign"
        raise SignatureError(msg) from None
    if parsed.digest not in _DIGESTS:
        msg = f"its message digest {parsed.digest!r} is not known: allowed are sha256 and sha512"
        raise SignatureError(msg)
    return parsed


def load_private(data: bytes, name: str) -> PrivateKey:
    """Return the private key in the content of a key file; ``name`` is for messages.

    Raises
    ------
    UsageError
        It is not a private key, needs a passphrase, or is of another kind.
    """
    openssh = b"OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        key = load(data, password=None)
    except TypeError:
        msg = (
            f"the key {name!r} is locked by a passphrase: let ssh-keygen, which asks for it or for "
            "the agent, sign the text that is to be signed, as the help of kd-offline sign shows"
        )
        raise UsageError(msg) from None
    except (ValueError, UnsupportedAlgorithm):
        msg = f"{name!r} is not a private key that can be used: {ALLOWED}, not the .pub file"
        raise UsageError(msg) from None
    if not isinstance(
        key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    ):
        msg = f"{name!r} is a {type(key).__name__}: {ALLOWED}"
        raise UsageError(msg)
    return key


def public_bytes(key: PublicKey) -> bytes:
    """Return a public key in SSH's wire format."""
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return base64.b64decode(line.split()[1])


def fingerprint(key: bytes) -> str:
    """Return ``SHA256:...`` of a public key in wire format, as ssh-keygen shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def key_type(key: bytes) -> str:
    """Return the name of a wire-format key's type, such as ``ssh-ed25519``."""
    try:
        return _split(key, 1, exactly=False)[0].decode("ascii")
    except ValueError:
        return "unreadable"


def _load_public(key: bytes) -> PublicKey:
    name = key_type(key)
    problem = f"it was made by a key of type {name!r}: {ALLOWED}; ssh-keygen -Y verify may know it"
    if name not in ("ssh-ed25519", "ssh-rsa", _SECURITY_KEY, *_CURVES):
        raise SignatureError(problem)
    if name == _SECURITY_KEY:
        return ed25519.Ed25519PublicKey.from_public_bytes(_split(key, 3)[1])
    try:
        loaded = serialization.load_ssh_public_key(name.encode() + b" " + base64.b64encode(key))
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureError(problem) from None
    return loaded  # type: ignore[return-value]


def _signed_data(message: bytes, namespace: str, digest: str) -> bytes:
    hashed = _DIGESTS[digest](message).digest()
    return _MAGIC + _strings(namespace.encode(), b"", digest.encode(), hashed)


def _by_security_key(signature: Signature, data: bytes) -> bytes:
    """Return the data that a security key signs: with its application, flags and counter."""
    application = _split(signature.key, 3)[2]
    if signature.kind != _SECURITY_KEY or len(signature.rest) != 5:
        raise InvalidSignature
    hashed = (hashlib.sha256(part).digest() for part in (application, data))
    return signature.rest.join(hashed)


def _sign(key: PrivateKey, data: bytes) -> tuple[str, bytes]:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ssh-ed25519", key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return "rsa-sha2-512", key.sign(data, padding.PKCS1v15(), hashes.SHA512())
    kind = key_type(public_bytes(key.public_key()))
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(_CURVES[kind])))
    return kind, _strings(_mpint(r), _mpint(s))


def _verify(key: PublicKey, kind: str, blob: bytes, data: bytes) -> None:
    """Raise ``InvalidSignature`` or ``ValueError`` unless the signature is right."""
    if isinstance(key, ed25519.Ed25519PublicKey) and kind in ("ssh-ed25519", _SECURITY_KEY):
        key.verify(blob, data)
    elif isinstance(key, rsa.RSAPublicKey) and kind in _RSA:
        key.verify(blob, data, padding.PKCS1v15(), _RSA[kind])
    elif isinstance(key, ec.EllipticCurvePublicKey) and kind == key_type(public_bytes(key)):
        r, s = (int.from_bytes(part, "big", signed=True) for part in _split(blob, 2))
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(_CURVES[kind]))
    else:
        raise InvalidSignature


def _decode_armour(text: bytes) -> bytes:
    lines = text.strip().splitlines()
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise ValueError
    try:
        return base64.b64decode(b"".join(lines[1:-1]), validate=True)
    except binascii.Error as error:
        raise ValueError from error


def _strings(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _split(data: bytes, count: int, *, exactly: bool = True) -> list[bytes]:
    """Return the first ``count`` strings of ``data``; raises ``ValueError`` if they do not fit."""
    parts, at = [], 0
    for _ in range(count):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "big")
        if start > len(data) or at > len(data):
            raise ValueError
        parts.append(data[start:at])
    if exactly and at != len(data):
        raise ValueError
    return parts


def _mpint(value: int) -> bytes:
    """Return a positive number as SSH's mpint: big-endian, with a zero sign bit."""
    return value.to_bytes(value.bit_length() // 8 + 1, "big")
