"""The id of a dataset: everything that a reader computes with is part of it."""

import copy
import json

import pytest
from pydantic import BaseModel

from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import parse_manifest
from kd_offline.errors import CorruptDatasetError
from kd_offline.schemas.dataset import (
    Capture,
    DatasetManifest,
    ExpertRecord,
    MaskRecord,
    RecordingRecord,
    SplitRecord,
)
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.sealed_json import canonical_json, digest, seal
from tests.golden.make_datasets import DATA

# Shown to people and never computed with, derived from the arrays, or of the files alone.
NOTES = {
    "": {"format_version", "id", "name", "version", "description", "statistics", "licence"}
    | {"citation", "lineage", "files", "manifest_digest"},
    "experts.0": {"missing"},
    "masks.full": {"description"},
    "recording": {"episodes", "batch", "noise_rule", "software", "code_revision", "machine"}
    | {"started_at", "seconds"},
}
# Where a model's fields lie in the manifest; a new field is part of the id or has to join NOTES.
PLACES: dict[str, type[BaseModel]] = {
    "": DatasetManifest,
    "environment": EnvironmentSpec,
    "experts.0": ExpertRecord,
    "experts.0.capture": Capture,
    "masks.full": MaskRecord,
    "recording": RecordingRecord,
    "splits.train": SplitRecord,
}
FIELDS = [(place, name) for place, model in PLACES.items() for name in model.model_fields]


def manifest():
    document = json.loads((DATA / "context.zarr" / layout.MANIFEST).read_bytes())
    document.pop("manifest_digest")
    return document


def at(document, place):
    for key in filter(None, place.split(".")):
        document = document[int(key) if key.isdigit() else key]
    return document


def identified(document):
    layout.identify(document)
    return document["id"]


@pytest.mark.parametrize(("place", "name"), FIELDS, ids=".".join)
def test_every_field_is_part_of_the_id_or_is_only_shown(place, name):
    before, document = identified(manifest()), manifest()
    at(document, place)[name] = (
        [1, 2] if name == "format_version" else {"altered": 1} if name != "experts" else []
    )
    if (place, name) == ("", "masks"):
        document["masks"] = {}
    if (place, name) == ("", "recording"):
        document["recording"] = {"seed": 99}
    if (place, name) == ("", "environment"):
        document["environment"] = {"id": "another"}
    assert (identified(document) != before) == (name not in NOTES.get(place, set()))


@pytest.mark.parametrize("key", ["bootstraps_truncation", "architecture", "opponents"])
def test_a_manifest_whose_context_was_changed_is_refused(key):
    document = manifest()
    document["experts"][0][key] = False if key == "bootstraps_truncation" else {"mixer": "vdn"}
    with pytest.raises(CorruptDatasetError, match="the context does not match"):
        parse_manifest("d.zarr", seal(document))
    layout.identify(document)
    assert parse_manifest("d.zarr", seal(document)).id == document["id"] != manifest()["id"]


def test_the_context_can_neither_be_left_out_nor_claimed_by_an_older_version():
    document = manifest()
    del document["environment"]["context"]
    document["id"] = layout.dataset_id(document)
    with pytest.raises(CorruptDatasetError, match="the context does not match"):
        parse_manifest("d.zarr", seal(document))
    older = manifest() | {"format_version": [1, 1]}
    with pytest.raises(CorruptDatasetError, match=r"says format 1\.1, but states a context"):
        parse_manifest("d.zarr", seal(older))


def test_readers_of_1_1_check_the_id_of_1_2_by_their_own_rule():
    document = manifest()
    meaning = ("id", "digest", "capture", "gamma", "value_of")
    content = {
        "format": 1,
        "environment": document["environment"],
        "experts": [{k: e[k] for k in meaning if k in e} for e in document["experts"]],
        "arrays": document["arrays"],
    }
    assert digest(canonical_json(content)) == document["id"]


@pytest.mark.parametrize("name", ["ragged", "values", "mixed", "bare"])
def test_ids_of_older_versions_stay_what_they_were(name):
    document = json.loads((DATA / f"{name}.zarr" / layout.MANIFEST).read_bytes())
    again = copy.deepcopy(document)
    assert identified(again) == document["id"]
    assert "context" not in again["environment"]


def test_keys_that_a_later_version_adds_are_part_of_the_context():
    document = manifest()
    before = layout.context_digest(document)
    document["experts"][0]["mood"] = "curious"
    assert layout.context_digest(document) != before
