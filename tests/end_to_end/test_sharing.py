"""Datasets from one lab to another, through the command line and real servers."""

import json
import shutil

import pytest

from kd_offline.datasets import ExpertBuffer, verify
from tests import servers
from tests.end_to_end.conftest import DISTILL, kd, kd_json, refused

NEEDED = {"obs", "available_actions", "alive", "actions", "logits"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_OFFLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def _server(made, tmp_path_factory):
    if servers.NGINX is None:
        pytest.skip("nginx is not installed")
    with servers.nginx(tmp_path_factory.mktemp("nginx")) as server:
        shutil.copytree(made.dataset, server.www / "dataset.zarr")
        yield server


@pytest.fixture
def web(_server):
    _server.forget()
    return _server


@pytest.fixture
def address(web):
    return f"{web.url}/dataset.zarr"


def test_students_are_distilled_from_an_address(made, web, address, tmp_path):
    recipe = ["--method", "kl", "--hidden", "8", *DISTILL[:6]]
    done = kd_json("distill", address, "-o", tmp_path / "far", *recipe)
    fetched = {path.split("/c/")[0].removeprefix("steps/") for path in _chunks(web)}
    assert fetched >= NEEDED
    assert not fetched & {"embedding", "value", "reward", "final/obs", "final/value"}
    assert done["bytes_moved"] == web.sent()
    run = json.loads((tmp_path / "far" / "run.json").read_text())
    assert run["dataset"]["path"] == address
    assert run["dataset"]["id"] == ExpertBuffer.open(made.dataset).id
    kd("distill", made.dataset, "-o", tmp_path / "near", *recipe)
    near = json.loads((tmp_path / "near" / "run.json").read_text())
    assert near["results"][0]["digest"] == run["results"][0]["digest"]


def _chunks(web):
    return {path for path in web.fetched("dataset.zarr") if "/c/" in path}


def test_a_run_says_its_address_and_asks_there_only_where_one_agrees(web, address, tmp_path):
    run = tmp_path / "run"
    kd("distill", address, "-o", run, "--method", "kl", "--hidden", "8", *DISTILL[:6])
    web.forget()
    assert f"pass --dataset {address}" in refused("rerun", run, code=2)
    assert web.requests() == [], "a run may be a stranger's"
    done = kd("rerun", run, "--dataset", address)
    assert "the same, bit for bit" in done.stdout
    assert _chunks(web) == set(), "what was fetched is in the cache"


def test_an_address_is_inspected_and_verified(made, web, address):
    shown = kd_json("inspect", address)
    assert shown["bytes_moved"] == web.sent()
    assert "bytes_moved" not in kd_json("inspect", made.dataset)
    assert kd_json("verify", address)["ok"] is True
    assert kd("verify", address, "--quick").stdout.startswith("whole")
    pinned = f"{address}@{shown['id']}"
    assert kd_json("inspect", pinned)["id"] == shown["id"]
    assert "is asked for" in refused("inspect", f"{address}@sha256:{'0' * 12}", code=2)


def test_push_pull_and_pack(made, web, address, tmp_path):
    dataset = ExpertBuffer.open(made.dataset)
    manifest = made.dataset / "manifest.json"
    whole = dataset.manifest.size_bytes + manifest.stat().st_size
    pushed = kd_json("push", made.dataset, tmp_path / "shared.zarr")
    assert pushed == {
        "id": dataset.id,
        "from": str(made.dataset),
        "to": str(tmp_path / "shared.zarr"),
        "files": len(dataset.manifest.files) + 1,
        "bytes_moved": whole,
        "bytes_skipped": 0,
        "seconds": pushed["seconds"],
    }
    pulled = kd_json("pull", f"{address}@{dataset.id[:30]}", "-o", tmp_path / "mine.zarr")
    assert pulled["bytes_moved"] == web.sent() == whole
    packed = kd_json("pack", tmp_path / "mine.zarr")
    assert packed["to"] == str(tmp_path / "mine.zarr.zip")
    kd("pull", packed["to"], "-o", tmp_path / "again.zarr")
    assert verify(tmp_path / "again.zarr").ok
    assert (tmp_path / "again.zarr" / "manifest.json").read_bytes() == manifest.read_bytes()


def test_a_pull_of_some_arrays_says_what_comes_along(made, web, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = kd("pull", address, "--arrays", "logits, actions,obs")
    assert done.stdout.strip() == "dataset.zarr"
    assert "these come along" in done.stderr
    assert "steps/reward" in done.stderr
    part = ExpertBuffer.open("dataset.zarr")
    assert part.manifest.lineage[-1].parents == (ExpertBuffer.open(made.dataset).id,)
    kd("distill", "dataset.zarr", "-o", "run", "--method", "kl", "--hidden", "8", *DISTILL[:6])
    assert "embedding" in refused("distill", "dataset.zarr", "-o", "other", code=2)


def test_the_cache_is_shown_and_cleared(address, tmp_path):
    kd("distill", address, "-o", tmp_path / "r", "--method", "kl", "--hidden", "8", *DISTILL[:6])
    shown = kd_json("cache")
    assert shown["path"] == str(tmp_path / "cache")
    assert shown["files"] > 10
    assert shown["limit_bytes"] == 20_000_000_000
    assert kd_json("cache", "--clear")["bytes"] == 0


def test_what_cannot_be_shared_is_one_sentence(made, web, address, tmp_path, monkeypatch):
    assert "a web server" in refused("push", made.dataset, address, code=2)
    assert "no dataset at" in refused("pull", f"{web.url}/none.zarr", code=2)
    assert "is refused" in refused("inspect", f"{web.url}/forbidden/d.zarr", code=1)
    assert "unknown array 'logit'" in refused("pull", address, "--arrays", "logit", code=2)
    assert "names no array" in refused("pull", address, "--arrays", ",", code=2)
    assert "ftp://" in refused("distill", "ftp://host/d.zarr", code=2)
    kd("push", made.dataset, tmp_path / "there.zarr")
    part = tmp_path / "part.zarr"
    kd("pull", made.dataset, "-o", part, "--arrays", "logits")
    assert "--overwrite" in refused("push", part, tmp_path / "there.zarr", code=1)
    monkeypatch.setenv("KD_OFFLINE_CACHE", "off")
    assert "KD_OFFLINE_CACHE is off" in refused("cache", code=2)
