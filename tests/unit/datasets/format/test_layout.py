import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import parse_manifest
from kd_offline.errors import CorruptDatasetError, UnknownNameError
from kd_offline.schemas.dataset import (
    ArraySpec,
    Capture,
    DatasetManifest,
    ExpertRecord,
    MaskRecord,
    RecordingRecord,
    SplitRecord,
)
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.sealed_json import canonical_json, digest, seal, unseal
from tests.golden.make_datasets import DATA

SPEC = ArraySpec(
    dtype="float32", shape=(100, 3, 5), axes=("R", "N", "A"), digest="sha256:" + "0" * 64
)


@pytest.mark.parametrize(
    ("row_bytes", "rows"), [(1, 8192), (1024, 8192), (1025, 4096), (1 << 20, 256), (1 << 30, 1)]
)
def test_chunk_rows_is_a_power_of_two_within_the_byte_limit(row_bytes, rows):
    assert layout.chunk_rows(row_bytes) == rows


def test_metadata_is_accepted_as_written():
    text = layout.array_metadata("float32", (100, 3, 5), 64, ("R", "N", "A"), 1)
    assert layout.parse_array_metadata(text, SPEC) == 64


TAMPERED: dict[str, Callable[[Any], object]] = {
    "shape": lambda d: d.update(shape=[99, 3, 5]),
    "dtype": lambda d: d.update(data_type="int32"),
    "order of axes": lambda d: d.update(dimension_names=["N", "R", "A"]),
    "fill value": lambda d: d.update(fill_value=1.0),
    "divided agents": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[64, 1, 5]),
    "no rows": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[0, 3, 5]),
    "rows as float": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[64.0, 3, 5]),
    "big endian": lambda d: d["codecs"][0]["configuration"].update(endian="big"),
    "no checksum": lambda d: d["codecs"][1]["configuration"].update(checksum=False),
    "another codec": lambda d: d["codecs"].__setitem__(1, {"name": "gzip", "configuration": {}}),
    "one more codec": lambda d: d["codecs"].append({"name": "crc32c"}),
    "attributes": lambda d: d.update(attributes={"note": 1}),
    "format 2": lambda d: d.update(zarr_format=2),
}


@pytest.mark.parametrize("name", list(TAMPERED))
def test_metadata_that_would_change_values_is_refused(name):
    document = json.loads(layout.array_metadata("float32", (100, 3, 5), 64, ("R", "N", "A"), 1))
    TAMPERED[name](document)
    assert layout.parse_array_metadata(json.dumps(document).encode(), SPEC) is None


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000])
def test_metadata_that_is_not_metadata_is_refused(text):
    assert layout.parse_array_metadata(text, SPEC) is None


def test_content_digest_is_the_documented_one():
    values = hashlib.sha256(b"\x01\x00\x02\x00").hexdigest()
    text = f'{{"dtype":"int16","shape":[2],"values":"{values}"}}'
    want = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert layout.content_digest("int16", (2,), values) == want


def test_unknown_array_names_the_allowed_ones():
    with pytest.raises(UnknownNameError, match=r"did you mean 'steps/logits'"):
        layout.rule_for("steps/logit")


def test_embedding_taps_have_names():
    assert layout.rule_for("steps/embedding_encoder").axes == ("R", "N", "H")


def test_seal_detects_every_flipped_bit():
    text = seal({"a": 1, "b": {"c": [1.5, "x"]}})
    document = unseal(text)
    assert document is not None
    assert document["b"] == {"c": [1.5, "x"]}
    for bit in range(8 * len(text)):
        altered = bytearray(text)
        altered[bit // 8] ^= 1 << (bit % 8)
        assert unseal(bytes(altered)) is None


# Shown to people and never computed with, derived from the arrays, or of the files alone.
NOTES = {
    "": {"format_version", "id", "name", "version", "description", "statistics", "licence"}
    | {"citation", "lineage", "files", "shards", "manifest_digest"},
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
    layout.update_identity(document)
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
    layout.update_identity(document)
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
