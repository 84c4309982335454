"""What signing and verifying print, and what is said when trust is misplaced."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import kd, kd_json, refused

ROOT = Path(__file__).parents[2]
TINY = ROOT / "datasets" / "tiny-spread" / "dataset.zarr"

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a dataset, Alice's key in her home, and what she gave to others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(TINY, "dataset.zarr")
    Path(".ssh").mkdir()
    for path in (".ssh/id_ed25519", "bob"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", path]
        subprocess.run(command, check=True)
    shutil.copy(".ssh/id_ed25519.pub", "alice.pub")
    line = f'alice@example.org namespaces="kd-offline-dataset" {Path("alice.pub").read_text()}'
    Path("allowed_signers").write_text(line)
    return tmp_path


def test_what_is_printed(place):
    made = kd_json("sign", "dataset.zarr")
    assert made["file"] == "dataset.zarr.sig"
    assert made["key_type"] == "ssh-ed25519"
    report = kd_json("verify", "dataset.zarr", "--allowed-signers", "allowed_signers")
    assert report["ok"]
    assert report["signature"]["signer"] == "alice@example.org"
    assert report["signature"]["id"] == made["id"] == kd_json("inspect", "dataset.zarr")["id"]
    assert "signature" not in kd_json("verify", "dataset.zarr", "--quick")
    words = kd("verify", "dataset.zarr", "--signature", "--public-key", "alice.pub").stdout
    assert words.startswith(f"signed by alice (ssh-ed25519 {made['fingerprint']})\nwhole: ")


def test_a_signature_that_does_not_count(place):
    trusting = ("verify", "dataset.zarr", "--public-key", "alice.pub")
    assert "cannot read the signature 'dataset.zarr.sig'" in refused(*trusting, code=1)
    kd("sign", "dataset.zarr", "--key", "bob")
    assert "not among those trusted" in refused(*trusting, code=1)
    kd(
        "sign",
        ROOT / "tests" / "golden" / "data" / "bare.zarr",
        "-o",
        "dataset.zarr.sig",
        "--overwrite",
    )
    assert "another dataset" in refused(*trusting, code=1)
    kd("sign", "dataset.zarr", "--overwrite")
    kd(*trusting)
    text = Path("dataset.zarr.sig").read_text()
    Path("dataset.zarr.sig").write_text(text.replace("\n", "\nA", 2))
    assert "does not vouch for" in refused(*trusting, code=1)
    refused("verify", "dataset.zarr", "--signature", code=2)
    refused("sign", "dataset.zarr", "--key", "alice.pub", "--overwrite", code=2)
    refused("sign", "dataset.zarr", "--key", "nobody", "--overwrite", code=2)


def test_signed_and_damaged(place):
    """A good signature of a good manifest does not make bad files good."""
    kd("sign", "dataset.zarr")
    chunk = place / "dataset.zarr" / "steps" / "obs" / "c" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    done = kd("verify", "dataset.zarr", "--public-key", "alice.pub", "--json", code=1)
    report = json.loads(done.stdout)
    assert not report["ok"]
    assert report["problems"][0]["where"].startswith("steps/obs")


def test_an_archive_and_its_signature(place):
    kd("pack", "dataset.zarr", "-o", "dataset.zarr.zip")
    kd("sign", "dataset.zarr.zip")
    assert Path("dataset.zarr.zip.sig").is_file()
    kd("verify", "dataset.zarr.zip", "--signature", "--public-key", "alice.pub")
    folder = ("verify", "dataset.zarr", "--signature-file", "dataset.zarr.zip.sig")
    kd(*folder, "--public-key", "alice.pub")
    kd(*folder, "--public-key", "bob.pub", code=1)
