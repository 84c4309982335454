"""Reading manifests of strangers: refused by what they list before it is looked at in full."""

import copy
import json

import pytest

from kd_offline.datasets.format import manifest
from kd_offline.datasets.format.manifest import parse_manifest
from kd_offline.errors import CorruptDatasetError
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.sealed_json import seal
from tests.golden.make_datasets import DATA


def listing(count):
    """Return a manifest of some hundred rows that lists ``count`` files more."""
    document = copy.deepcopy(json.loads(next(DATA.rglob("manifest.json")).read_bytes()))
    document.pop("manifest_digest")
    document["files"] += [
        {"path": f"steps/obs/c/{k}/0/0", "size": 1, "sha256": "0" * 64}
        for k in range(10_000, 10_000 + count)
    ]
    return seal(document)


def test_more_files_than_the_arrays_have_rows_are_refused_by_their_number(monkeypatch):
    def validated(*_):
        pytest.fail("every file was looked at")

    monkeypatch.setattr(DatasetManifest, "model_validate", validated)
    with pytest.raises(CorruptDatasetError, match=r"lists 50,\d+ files, and its arrays have"):
        parse_manifest("d.zarr", listing(50_000))


def test_a_manifest_may_list_files_of_later_versions_beside_those_of_its_arrays():
    assert len(parse_manifest("d.zarr", listing(manifest._OTHER_FILES)).files) > 1000


def test_a_file_below_another_file_is_found_however_deep():
    document = json.loads(listing(0))
    document.pop("manifest_digest")
    document["files"] += [
        {"path": path, "size": 1, "sha256": "0" * 64}
        for path in ("steps/x", "steps/x/y/a/b", "steps/x/y/c/d")
    ]
    with pytest.raises(CorruptDatasetError, match="steps/x as a file and as a folder"):
        parse_manifest("d.zarr", seal(document))
