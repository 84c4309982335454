"""The Hugging Face Hub, played by a server that answers as its endpoints do."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.datasets.sharing.share import pull, push
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import NotADatasetError, StorageError, UsageError
from kd_offline.testing.factories import tiny_dataset
from tests import servers

TOKEN = "hf_test"
ROUTES = {
    r"/datasets/([\w-]+/[\w-]+)/resolve/([^/]+)/(.+)": "resolve",
    r"/cdn/([\w-]+/[\w-]+)/(.+)": "cdn",
    r"/api/repos/create": "create",
    r"/api/datasets/([\w-]+/[\w-]+)/tree/([^/]+)/?(.*)": "tree",
    r"/api/datasets/([\w-]+/[\w-]+)/preupload/([^/]+)": "preupload",
    r"/api/datasets/([\w-]+/[\w-]+)/commit/([^/]+)": "commit",
}


class Hub:
    """Repositories in memory: ``lab/d`` -> path -> bytes; commits and reads are counted."""

    def __init__(self):
        self.repositories = {}
        self.commits = 0
        self.served = []
        self.url = ""

    def answer(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = handler.path.partition("?")[0]
        for pattern, action in ROUTES.items():
            if found := re.fullmatch(pattern, path):
                getattr(self, action)(handler, body, *found.groups())
                return
        self.json(handler, {"error": f"no such route {path}"}, 404)

    def json(self, handler, value, status=200, **headers):
        servers.reply(
            handler, json.dumps(value).encode(), status, Content_Type="application/json", **headers
        )

    def resolve(self, handler, body, repo, revision, path):
        if repo.startswith("secret/") and handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.json(handler, {"error": "Invalid credentials"}, 401)
        elif revision not in ("main", "v1") or path not in self.repositories.get(repo, {}):
            self.json(handler, {"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        else:  # as the Hub does: the bytes come from another place
            location = f"{self.url}/cdn/{repo}/{path}"
            servers.reply(handler, b"", 302, Location=location, X_Repo_Commit="0" * 40)

    def cdn(self, handler, body, repo, path):
        self.served.append(path)
        servers.reply(handler, self.repositories[repo][path])

    def create(self, handler, body):
        given = json.loads(body)
        if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.json(handler, {"error": "Invalid credentials"}, 401)
            return
        repo = f"{given['organization']}/{given['name']}" if "organization" in given else "me/x"
        self.repositories.setdefault(repo, {})
        self.json(handler, {"url": f"{self.url}/datasets/{repo}", "id": repo})

    def tree(self, handler, body, repo, revision, folder):
        files = self.repositories.get(repo, {})
        prefix = f"{folder}/" if folder else ""
        found = [
            {
                "type": "file",
                "path": path,
                "size": len(data),
                "oid": "0" * 40,
                "lfs": {
                    "oid": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 1,
                },
            }
            for path, data in files.items()
            if path.startswith(prefix)
        ]
        if not found:
            self.json(handler, {"error": "none"}, 404, X_Error_Code="EntryNotFound")
        else:
            self.json(handler, found)

    def preupload(self, handler, body, repo, revision):
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        self.json(handler, {"files": files})

    def commit(self, handler, body, repo, revision):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.repositories[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.repositories[repo][value["path"]]
        self.commits += 1
        self.json(
            handler,
            {"commitUrl": f"{self.url}/datasets/{repo}/commit/0", "commitOid": "0" * 40},
        )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub()
    with servers.answering(hub.answer) as url:
        hub.url = url
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


def test_a_dataset_of_the_hub_is_read_in_place(hub, whole):
    hub.repositories["lab/d"] = {
        f"small/{path}": whole.files.read(path) for path in whole.files.files()
    }
    found = ExpertBuffer.open("hf://datasets/lab/d@v1/small")
    assert found.id == whole.id
    hub.served.clear()
    assert np.array_equal(found.read("steps/obs", 0, 5), whole.read("steps/obs", 0, 5))
    assert hub.served == ["small/steps/obs/c/0/0/0"]
    with pytest.raises(NotADatasetError):
        ExpertBuffer.open("hf://datasets/lab/d@v2/small")
    with pytest.raises(NotADatasetError):
        ExpertBuffer.open("hf://datasets/lab/d")


def test_what_was_pushed_is_pulled(hub, whole, tmp_path):
    done = push(whole.path, "hf://datasets/lab/d")
    assert hub.commits == 1, "the files and the manifest are there at once"
    assert done.bytes_moved == whole.manifest.size_bytes + whole.files.size("manifest.json")
    pull(f"hf://datasets/lab/d@{whole.id}", tmp_path / "d.zarr")
    assert verify(tmp_path / "d.zarr").ok
    again = push(whole.path, "hf://datasets/lab/d")
    assert again.bytes_skipped == whole.manifest.size_bytes
    assert hub.commits == 1


def test_another_dataset_on_the_hub_is_replaced_only_on_request(hub, whole, tmp_path):
    hub.repositories["lab/d"] = {"README.md": b"a card"}
    push(whole.path, "hf://datasets/lab/d")
    other = tiny_dataset(tmp_path / "o.zarr", seed=5, without=["steps/value"])
    with pytest.raises(StorageError, match="overwrite=True"):
        push(other.path, "hf://datasets/lab/d")
    assert ExpertBuffer.open("hf://datasets/lab/d").id == whole.id
    push(other.path, "hf://datasets/lab/d", overwrite=True)
    assert set(hub.repositories["lab/d"]) == set(other.files.files() or ()) | {"README.md"}
    assert verify("hf://datasets/lab/d").ok


def test_the_token_is_sent_and_asked_for(hub, whole, monkeypatch):
    hub.repositories["secret/d"] = {path: whole.files.read(path) for path in whole.files.files()}
    assert ExpertBuffer.open("hf://datasets/secret/d").id == whole.id
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StorageError, match=r"access to .* is refused.*HF_TOKEN"):
        ExpertBuffer.open("hf://datasets/secret/d")
    with pytest.raises(StorageError, match=r"the Hub refuses .*HF_TOKEN") as caught:
        push(whole.path, "hf://datasets/lab/d")
    assert "\n" not in str(caught.value)


def test_the_token_does_not_leave_the_hub(monkeypatch):
    tokens = []

    def store(handler):
        tokens.append(handler.headers.get("Authorization"))
        servers.reply(handler, b"content")

    with servers.answering(store) as elsewhere:

        def answer(handler):
            tokens.append(handler.headers.get("Authorization"))
            servers.reply(handler, b"", 302, Location=f"{elsewhere}/file")

        with servers.answering(answer) as url:
            monkeypatch.setenv("HF_ENDPOINT", url)
            monkeypatch.setenv("HF_TOKEN", TOKEN)
            assert open_files("hf://datasets/lab/d").read("file") == b"content"
    assert tokens == [f"Bearer {TOKEN}", None]


@pytest.mark.parametrize("url", ["hf://lab/d", "hf://datasets/lab", "hf://datasets/a/b?c=d"])
def test_other_addresses_of_the_hub_are_refused(url):
    with pytest.raises(UsageError, match="hf://datasets/NAME/DATASET"):
        ExpertBuffer.open(url)
