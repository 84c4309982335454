"""A web server that shows one manifest first and another one next: what was checked is used."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kd_offline.datasets.format.manifest import parse_manifest
from kd_offline.errors import CorruptDatasetError
from kd_offline.recording.add_masks import relabel_masks
from kd_offline.sealed_json import seal, unseal
from tests.end_to_end.conftest import kd, kd_json
from tests.servers import answering, reply

pytest.importorskip("obstore")

ROOT = Path(__file__).parents[2]
TINY = ROOT / "datasets" / "tiny-spread" / "dataset.zarr"
MANIFEST = "manifest.json"


class Alternating:
    """Serve a dataset whose manifest is the first one once (or more often), then the second."""

    def __init__(self, first: bytes, second: bytes) -> None:
        self.texts = (first, second)
        self.shown = 0
        self.honest = 1
        self.url = ""

    def __call__(self, request) -> None:
        path = request.path.removeprefix("/d.zarr/")
        if path == MANIFEST:
            body = self.texts[self.shown >= self.honest]
            self.shown += request.command == "GET"
        else:
            file = TINY / path
            if not file.is_file():
                return reply(request, b"", 404)
            body = file.read_bytes()
        return reply(request, body)


def resealed(text: bytes, **changes: object) -> bytes:
    document = unseal(text)
    assert document is not None
    del document["manifest_digest"]
    return seal(document | changes)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("KD_OFFLINE_CACHE", "off")
    first = (TINY / MANIFEST).read_bytes()
    second = resealed(first, licence="another one", name="another one")
    parse_manifest("it", second)  # whole and of the same id
    server = Alternating(first, second)
    with answering(server) as url:
        server.url = f"{url}/d.zarr"
        yield server


@pytest.fixture
def signed(tmp_path):
    """Alice's key and her signature of the first manifest."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    key = tmp_path / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", key]
    subprocess.run(command, check=True)
    kd("sign", TINY, "--key", key, "-o", tmp_path / "sig")
    return ("--signature-file", tmp_path / "sig", "--public-key", tmp_path / "key.pub")


def test_a_signature_and_all_other_checks_are_of_the_same_manifest(server, signed):
    checks = ("--replay", 1, "--json")
    done = json.loads(kd("verify", server.url, *signed, *checks, code=1).stdout)
    assert done["signature"]["manifest_digest"] == unseal(server.texts[0])["manifest_digest"]
    assert [problem["where"] for problem in done["problems"]] == [MANIFEST]
    assert "another manifest.json is there than a moment ago" in done["problems"][0]["what"]
    assert done["replay"]["exact"]


def test_showing_the_signed_manifest_second_does_not_help_either(server, signed):
    server.texts = server.texts[::-1]
    assert "does not vouch for" in kd("verify", server.url, *signed, code=1).stderr
    server.shown, server.honest = 0, 0
    kd("verify", server.url, *signed)
    server.shown, server.honest = 0, 10**6
    kd("verify", server.url, *signed, code=1)


def test_what_a_second_manifest_would_start_is_never_started(server, signed):
    spec = unseal(server.texts[0])["environment"] | {"id": "pettingzoo/os:system"}
    server.texts = (server.texts[0], resealed(server.texts[0], environment=spec))
    done = kd("verify", server.url, *signed, "--replay", 1, "--relabel", 1, code=1)
    assert "os:system" not in done.output
    assert "mpe/simple_spread_v3 came out as recorded" in done.output


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "URL", "--json"),
        ("card", "URL", "--json"),
        ("croissant", "URL"),
        ("distill", "URL", "-o", "RUN", "--epochs", "1", "--method", "kl", "--hidden", "4"),
        ("pull", "URL", "-o", "COPY"),
    ],
)
def test_a_command_asks_for_the_manifest_once(server, tmp_path, command):
    places = {"URL": server.url, "RUN": tmp_path / "run", "COPY": tmp_path / "copy.zarr"}
    done = kd(*(places.get(word, word) for word in command))
    assert server.shown == 1
    assert "another one" not in done.output


def test_a_rerun_and_a_sweep_ask_once_too(server, tmp_path):
    learn = ("--epochs", 1, "--method", "kl", "--threads", 1)
    kd("distill", TINY, "-o", tmp_path / "run", "--hidden", 4, *learn)
    kd("rerun", tmp_path / "run", "-o", tmp_path / "again", "--dataset", server.url)
    assert server.shown == 1
    server.shown = 0
    kd_json(
        *("sweep", server.url, "-o", tmp_path / "sweep", "--trials", 1, "--judge", "agreement"),
        *("--epochs", 1, "--arch", "mlp", "--widths", 4, "--precision", "int8", "--method", "kl"),
        *("--episodes", 2),
    )
    assert server.shown == 1


def test_a_copy_with_further_masks_states_what_was_checked(server, tmp_path):
    with pytest.raises(CorruptDatasetError, match="another manifest"):
        relabel_masks(server.url, tmp_path / "d.zarr", ["random-3"])
    assert not (tmp_path / "d.zarr" / MANIFEST).exists()
