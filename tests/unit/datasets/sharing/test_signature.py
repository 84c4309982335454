"""Signatures: made and read by ssh-keygen as well as by us."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kd_offline.datasets.sharing import sshsig
from kd_offline.datasets.sharing.signature import (
    NAMESPACE,
    read_allowed_signers,
    read_public_key,
    sign,
    text_to_sign,
    verify_signature,
)
from kd_offline.errors import (
    MissingExtraError,
    NotADatasetError,
    SignatureError,
    StorageError,
    UsageError,
)
from kd_offline.sealed_json import seal
from kd_offline.testing.factories import tiny_dataset

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")

KINDS = {
    "ed25519": ("-t", "ed25519"),
    "rsa": ("-t", "rsa", "-b", "2048"),
    "p256": ("-t", "ecdsa", "-b", "256"),
    "p384": ("-t", "ecdsa", "-b", "384"),
    "p521": ("-t", "ecdsa", "-b", "521"),
    "pem": ("-t", "rsa", "-b", "2048", "-m", "PEM"),
    "stranger": ("-t", "ed25519"),
}


def ssh_keygen(*arguments, **options):
    command = ["ssh-keygen", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, **options)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Private keys by kind; each has its .pub file beside it."""
    folder = tmp_path_factory.mktemp("keys")
    for name, options in KINDS.items():
        made = ssh_keygen("-q", *options, "-N", "", "-C", f"{name}@lab", "-f", folder / name)
        assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def dataset(tmp_path):
    return tiny_dataset(tmp_path / "d.zarr").path


def public(keys, name="ed25519"):
    return keys / f"{name}.pub"


@pytest.mark.parametrize("name", list(KINDS))
def test_ssh_keygen_accepts_ours(dataset, keys, name):
    made = sign(dataset, keys / name)
    assert made.file == f"{dataset}.sig"
    signers = dataset.parent / "allowed_signers"
    signers.write_text(f'{name}@lab namespaces="{NAMESPACE}" {public(keys, name).read_text()}')
    who = ("-I", f"{name}@lab", "-n", NAMESPACE, "-f", signers, "-s", made.file)
    done = ssh_keygen("-Y", "verify", *who, input=text_to_sign(dataset))
    assert done.returncode == 0, done.stderr
    assert made.fingerprint in done.stdout.decode()
    found = verify_signature(dataset, allowed_signers=signers)
    assert (found.signer, found.id) == (f"{name}@lab", made.id)
    done = ssh_keygen("-Y", "verify", *who, input=text_to_sign(dataset) + b" ")
    assert done.returncode != 0


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("digest", ["sha512", "sha256"])
def test_we_accept_those_of_ssh_keygen(dataset, keys, name, digest):
    done = ssh_keygen(
        *("-q", "-Y", "sign", "-n", NAMESPACE, "-O", f"hashalg={digest}", "-f", keys / name),
        input=text_to_sign(dataset),
    )
    file = dataset.parent / "theirs.sig"
    file.write_bytes(done.stdout)
    assert sshsig.parse_signature(done.stdout).digest == digest
    found = verify_signature(dataset, file, public_key=public(keys, name))
    assert found.signer == f"{name}@lab"


def text(*parts):
    """Return byte strings as SSH writes them."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def touched(private, message, flags=1, kind=b"sk-ssh-ed25519@openssh.com"):
    """Return public key and signature as a security key would make them, in files' form."""
    raw = private.public_key().public_bytes_raw()
    public_key = text(b"sk-ssh-ed25519@openssh.com", raw, b"ssh:")
    digest = hashlib.sha512(message).digest()
    signed = b"SSHSIG" + text(NAMESPACE.encode(), b"", b"sha512", digest)
    counter = bytes([flags, 0, 0, 0, 9])
    hashed = [hashlib.sha256(part).digest() for part in (b"ssh:", signed)]
    blob = text(kind, private.sign(hashed[0] + counter + hashed[1])) + counter
    frame = b"SSHSIG\0\0\0\1" + text(public_key, NAMESPACE.encode(), b"", b"sha512", blob)
    armoured = base64.encodebytes(frame)
    begin, end = (f"-----{word} SSH SIGNATURE-----\n".encode() for word in ("BEGIN", "END"))
    line = f"sk-ssh-ed25519@openssh.com {base64.b64encode(public_key).decode()} token@lab"
    return line, begin + armoured + end


@pytest.mark.parametrize("flags", [0, 1, 5])  # untouched, touched, touched by a known finger
def test_security_keys(dataset, tmp_path, flags):
    """ssh-keygen agrees about the same signatures."""
    private = Ed25519PrivateKey.generate()
    line, signature = touched(private, text_to_sign(dataset), flags)
    (dataset.parent / "d.zarr.sig").write_bytes(signature)
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"token@lab {line}\n")
    who = ("-I", "token@lab", "-n", NAMESPACE, "-f", signers, "-s", f"{dataset}.sig")
    done = ssh_keygen("-Y", "verify", *who, input=text_to_sign(dataset))
    assert done.returncode == 0, done.stderr
    found = verify_signature(dataset, public_key=line)
    assert (found.signer, found.key_type) == ("token@lab", "sk-ssh-ed25519@openssh.com")
    assert found.fingerprint in done.stdout.decode()


def test_a_security_key_signs_as_such_only(dataset, keys):
    private = Ed25519PrivateKey.generate()
    for message, kind in [(b"other", b"sk-ssh-ed25519@openssh.com"), (None, b"ssh-ed25519")]:
        line, signature = touched(private, message or text_to_sign(dataset), kind=kind)
        (dataset.parent / "d.zarr.sig").write_bytes(signature)
        refused(dataset, keys, "altered|not an SSH signature", public_key=line)


def refused(dataset, keys, match, **options):
    options = {"public_key": public(keys)} | options
    with pytest.raises(SignatureError, match=match) as caught:
        verify_signature(dataset, **options)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_an_unknown_key(dataset, keys):
    made = sign(dataset, keys / "stranger")
    refused(
        dataset, keys, rf"made by the key {re.escape(made.fingerprint)}, .* not among those trusted"
    )


def test_the_signature_of_another_dataset(dataset, keys, tmp_path):
    other = tiny_dataset(tmp_path / "other.zarr", seed=1)
    sign(other.path, keys / "ed25519", f"{dataset}.sig")
    refused(dataset, keys, "another dataset or another manifest")


def test_the_same_content_under_another_manifest(dataset, keys, tmp_path):
    twin = tiny_dataset(tmp_path / "twin.zarr", masks=None, episodes=4)
    made = sign(dataset, keys / "ed25519")
    assert verify_signature(twin.path, made.file, public_key=public(keys)).id == twin.id
    text = (twin.path / "manifest.json").read_bytes()
    document = json.loads(text)
    document.pop("manifest_digest")
    (twin.path / "manifest.json").write_bytes(seal(document | {"licence": "proprietary"}))
    refused(twin.path, keys, "another manifest", signature=made.file)


def test_an_altered_signature_never_passes(dataset, keys):
    """Every byte of the text matters, or changes nothing that it means."""
    made = sign(dataset, keys / "ed25519")
    good = (dataset.parent / "d.zarr.sig").read_bytes()
    want = sshsig.parse_signature(good)
    for at in range(len(good)):
        altered = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        (dataset.parent / "d.zarr.sig").write_bytes(altered)
        try:
            verify_signature(dataset, public_key=public(keys))
        except SignatureError:
            continue
        assert sshsig.parse_signature(altered) == want, at
    assert made.key_type == "ssh-ed25519"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no signature",
        b"\xff" * 100,
        b"-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n",
        b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----",
    ],
)
def test_no_signature_at_all(dataset, keys, text):
    (dataset.parent / "d.zarr.sig").write_bytes(text)
    refused(dataset, keys, "not an SSH signature")


def test_an_absent_signature(dataset, keys):
    refused(dataset, keys, r"cannot read the signature .*d\.zarr\.sig.*it is with signature")


def test_a_signature_for_another_purpose(dataset, keys):
    key = sshsig.load_private((keys / "ed25519").read_bytes(), "key")
    (dataset.parent / "d.zarr.sig").write_bytes(
        sshsig.create_signature(key, text_to_sign(dataset), "git")
    )
    refused(dataset, keys, "made for 'git', not for 'kd-offline-dataset'")


def test_somebody_must_be_trusted(dataset, keys):
    sign(dataset, keys / "ed25519")
    with pytest.raises(UsageError, match=r"give public_key or give allowed_signers"):
        verify_signature(dataset)


def test_keys_that_cannot_sign(dataset, keys, tmp_path):
    ssh_keygen("-q", "-t", "ed25519", "-N", "secret", "-f", tmp_path / "locked")
    for key, match in [
        (tmp_path / "locked", "locked by a passphrase: let ssh-keygen"),
        (public(keys), "not a private key"),
        (tmp_path / "absent", r"cannot read the key .*absent.*give one with key"),
        (dataset / "manifest.json", "not a private key"),
    ]:
        with pytest.raises(UsageError, match=match):
            sign(dataset, key)
    assert not (dataset.parent / "d.zarr.sig").exists()


def test_what_cannot_be_signed(keys, dataset, tmp_path):
    with pytest.raises(NotADatasetError):
        sign(tmp_path, keys / "ed25519")
    with pytest.raises(StorageError, match="is not a folder"):
        sign(dataset, keys / "ed25519", keys / "ed25519" / "folder.sig")
    with pytest.raises(UsageError, match=r"remote, .*: say where to write it with output"):
        sign("https://example.org/d.zarr", keys / "ed25519")


class TestAllowedSigners:
    def lines(self, tmp_path, keys, *lines):
        file = tmp_path / "allowed_signers"
        key = " ".join(public(keys).read_text().split()[:2])
        file.write_text("".join(line.replace("KEY", key) + "\n" for line in lines))
        return file

    def test_as_the_manual_writes_them(self, tmp_path, keys):
        file = self.lines(
            *(tmp_path, keys, "# who", "", "a@lab,b@lab KEY it's a comment", '"c d" KEY'),
            'e@lab namespaces="git,kd-*",valid-after="20240101",valid-before=20991231235959Z KEY',
            "*@lab cert-authority KEY",
        )
        signers = read_allowed_signers(file)
        assert [s.name for s in signers] == ["a@lab,b@lab", "c d", "e@lab"]
        assert signers[2].namespaces == "git,kd-*"
        assert signers[2].before == datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)
        assert all(s.may_sign(NAMESPACE, datetime.now(UTC)) for s in signers)

    @pytest.mark.parametrize(
        "options",
        [
            'namespaces="git"',
            'namespaces="*,!kd-*"',
            "valid-before=20200101",
            "valid-before=202001011200Z",
            "valid-after=29990101Z",
        ],
    )
    def test_restrictions_hold_as_in_ssh_keygen(self, tmp_path, dataset, keys, options):
        file = self.lines(tmp_path, keys, f"a@lab {options} KEY")
        made = sign(dataset, keys / "ed25519")
        with pytest.raises(SignatureError, match="a@lab is not allowed to sign datasets today"):
            verify_signature(dataset, allowed_signers=file)
        who = ("-I", "a@lab", "-n", NAMESPACE, "-f", file, "-s", made.file)
        assert ssh_keygen("-Y", "verify", *who, input=text_to_sign(dataset)).returncode != 0

    @pytest.mark.parametrize(
        "line",
        [
            "KEY",
            "a@lab",
            "a@lab ssh-ed25519 !!!!",
            'a@lab "unclosed KEY',
            "a@lab sudo KEY",
            "a@lab valid-after=2024 KEY",
            "a@lab valid-after=20241301 KEY",
        ],
    )
    def test_lines_that_are_none(self, tmp_path, keys, line):
        file = self.lines(tmp_path, keys, "a@lab KEY", line)
        with pytest.raises(UsageError, match=r"line 2 of .* is not an allowed signer"):
            read_allowed_signers(file)

    def test_files_that_are_none(self, tmp_path, keys):
        for path in (tmp_path / "absent", keys):
            with pytest.raises(UsageError, match="cannot read"):
                read_allowed_signers(path)


def test_a_public_key_as_a_line(dataset, keys):
    sign(dataset, keys / "ed25519")
    line = public(keys).read_text()
    assert verify_signature(dataset, public_key=line).signer == "ed25519@lab"
    bare = " ".join(line.split()[:2])
    assert verify_signature(dataset, public_key=bare).signer == bare
    with pytest.raises(UsageError, match="holds no public key"):
        read_public_key(keys / "ed25519")


def test_without_the_library(dataset, keys, monkeypatch):
    import kd_offline.datasets.sharing as package

    monkeypatch.delattr(package, "sshsig")
    monkeypatch.delitem(sys.modules, "kd_offline.datasets.sharing.sshsig")
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MissingExtraError, match=r"signing .*pip install 'kd-offline\[share\]'"):
        sign(dataset, keys / "ed25519")
    assert text_to_sign(dataset).startswith(b"kd-offline dataset\nid sha256:")
