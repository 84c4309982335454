"""Datasets that were committed once, of format 1.0 and later: they open for ever, unchanged."""

import json

import numpy as np
import pytest
from pydantic import ValidationError
from pydantic_core import InitErrorDetails

from kd_offline import ExpertBuffer, inspect, verify
from kd_offline.datasets import DatasetWriter, EpisodeBlock
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.splits import Splits
from kd_offline.schemas.dataset import DatasetManifest, RecordingHeader
from tests.golden.make_datasets import DATA, EXPECTED, MAKERS, expected, fingerprint

KNOWN = json.loads((DATA / EXPECTED).read_text("utf-8"))
LARGEST_BYTES = 300_000


def manifests():
    return [json.loads((DATA / f"{name}.zarr/manifest.json").read_bytes()) for name in KNOWN]


def test_they_are_all_here_and_small():
    assert KNOWN.keys() == MAKERS.keys()
    assert {path.name for path in DATA.glob("*.zarr")} == {f"{name}.zarr" for name in KNOWN}
    sizes = [path.stat().st_size for path in DATA.rglob("*") if path.is_file()]
    assert sum(sizes) <= LARGEST_BYTES


@pytest.mark.parametrize("name", KNOWN)
def test_opens_with_the_values_of_then(name):
    path = DATA / f"{name}.zarr"
    assert expected(path) == KNOWN[name]
    assert inspect(path).id == KNOWN[name]["id"]
    for quick in (True, False):
        report = verify(path, quick=quick)
        assert report.ok, report.problems


def test_together_they_hold_every_kind_of_array():
    arrays = [(name, spec) for m in manifests() for name, spec in m["arrays"].items()]
    assert {name for name, _ in arrays} >= layout.RULES.keys()
    assert any(name.startswith("steps/embedding_") for name, _ in arrays)
    kinds = {(spec["dtype"], *spec["axes"]) for _, spec in arrays}
    for rule in (*layout.RULES.values(), layout.rule_for("masks/x"), layout.rule_for("masks/x", 3)):
        assert {(dtype, *rule.axes) for dtype in rule.dtypes} <= kinds
    for optional in (name for name, rule in layout.RULES.items() if not rule.required):
        assert not all(optional in m["arrays"] for m in manifests()), optional
    chunks = [file["path"] for m in manifests() for file in m["files"]]
    assert any("/c/1/" in path for path in chunks)


def test_there_is_a_dataset_of_every_version():
    versions = {m["name"]: m["format_version"] for m in manifests()}
    assert versions["golden/ragged"] == versions["golden/values"] == [1, 0]
    assert versions["golden/mixed"] == [1, 1]
    assert versions["golden/context"] == [1, 2]
    assert versions["golden/privileged"] == [1, 3]


def test_full_observations_are_described_where_they_are_held_and_only_there():
    for document in manifests():
        assert ("steps/obs_full" in document["arrays"]) == ("full" in document["environment"])
    spec = ExpertBuffer.open(DATA / "privileged.zarr").spec
    assert spec.full is not None
    assert spec.full.widths == (5, 9)


def test_a_reader_of_1_2_leaves_out_what_1_3_added(monkeypatch):
    """As it was: its tables have no full observations, and environments no description."""
    monkeypatch.setattr(layout, "NEWEST_VERSION", (1, 2))
    former = {name: rule for name, rule in layout.RULES.items() if "F" not in rule.axes}
    monkeypatch.setattr(layout, "RULES", former)
    monkeypatch.setattr(layout, "FULL", ())
    parse = DatasetManifest.model_validate

    def without_description(document):
        if "full" in document["environment"]:
            place: tuple[str | int, ...] = ("environment", "full")
            problem = InitErrorDetails(type="extra_forbidden", loc=place, input={})
            raise ValidationError.from_exception_data("DatasetManifest", [problem])
        return parse(document)

    monkeypatch.setattr(DatasetManifest, "model_validate", without_description)
    buffer = ExpertBuffer.open(DATA / "privileged.zarr")
    assert buffer.id == KNOWN["privileged"]["id"]
    assert buffer.spec.full is None
    assert set(KNOWN["privileged"]["arrays"]) - set(buffer.names) == {
        "steps/obs_full",
        "final/obs_full",
    }
    assert buffer.read("steps/obs").shape == (31, 2, 4)


def test_what_a_newer_version_added_is_left_out():
    buffer = ExpertBuffer.open(DATA / "newer.zarr")
    assert buffer.manifest.format_version == (1, 7)
    assert not buffer.has("steps/surprise")
    assert set(buffer.names) == set(KNOWN["bare"]["arrays"])


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "newer"])
def test_written_again_they_have_the_same_id(name, tmp_path):
    """What the writer of today makes of the same content is the same dataset."""
    buffer = ExpertBuffer.open(DATA / f"{name}.zarr")
    given = {n: v for n, v in buffer.load(buffer.names).items() if not derived(n)}
    groups = {
        group: {n.split("/")[1]: v for n, v in given.items() if n.startswith(f"{group}/")}
        for group in layout.GROUPS
    }
    manifest = buffer.manifest.model_dump()
    head = {key: manifest[key] for key in RecordingHeader.model_fields if key in manifest}
    with DatasetWriter.create(tmp_path / "d.zarr", RecordingHeader(**head)) as writer:
        writer.append(EpisodeBlock(groups["steps"], groups["final"], groups["episodes"]))
        codes = buffer.read("episodes/split")
        again = writer.commit(
            groups["masks"],
            splits=Splits(codes, layout.SPLITS),
            version=buffer.manifest.format_version,
        )
    assert again.arrays == buffer.manifest.arrays
    assert again.id == buffer.id


def derived(name):
    return name.startswith("episodes/") and layout.RULES[name].derived


def test_the_fingerprint_tells_values_apart():
    ones = np.ones((2, 3), np.float32)
    prints = [fingerprint(x) for x in (ones, ones.T, ones.astype(np.float64), ones * 2)]
    assert len({json.dumps(p) for p in prints}) == len(prints)
