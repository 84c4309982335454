"""Croissant descriptions, as Croissant's own library reads them; nothing is fetched."""

import hashlib
import json
import socket
from pathlib import Path

import pytest

from kd_offline.datasets.format.layout import RULES
from kd_offline.datasets.metadata.croissant import MEANINGS, Publication, describe, missing_fields
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import NotADatasetError, UsageError
from tests.end_to_end.conftest import kd

mlcroissant = pytest.importorskip("mlcroissant")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib.*")

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
TOLD = Publication("https://example.org/sets/d.zarr/", ("Ada Lovelace",), "2025-06-30")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*address, **options):
        raise AssertionError(address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def read(document):
    """Return the description as the library understands it; it must find nothing wrong."""
    read = mlcroissant.Dataset(jsonld=document)
    issues = read.metadata.ctx.issues
    assert not issues.errors
    return read, issues.warnings


@pytest.mark.parametrize("name", ["ragged", "values", "bare", "newer"])
def test_the_library_finds_nothing_wrong(name):
    document = describe(str(GOLDEN / f"{name}.zarr"), TOLD)
    _, warnings = read(json.loads(json.dumps(document)))
    assert all("license" in warning for warning in warnings), warnings
    assert bool(warnings) == bool(missing_fields(document)) == (name in ("bare", "newer"))


def test_it_says_what_the_manifest_says():
    path = GOLDEN / "ragged.zarr"
    buffer = ExpertBuffer.open(path)
    found, _ = read(describe(str(path), TOLD))
    about = found.metadata
    assert (about.name, about.version) == ("golden/ragged", "1.0.0")
    assert about.license == ["https://spdx.org/licenses/CC0-1.0.html"]
    assert about.cite_as == buffer.manifest.citation
    assert about.date_published.date().isoformat() == TOLD.published
    assert [person.name for person in about.creators] == list(TOLD.creators)
    manifest = next(file for file in about.distribution if file.id == "manifest.json")
    assert manifest.content_url == "https://example.org/sets/d.zarr/manifest.json"
    assert manifest.sha256 == hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    fields = {field.id: field for records in about.record_sets for field in records.fields}
    assert {name for name in fields if "/" in name} >= set(buffer.names)
    obs = fields["steps/obs"]
    assert obs.array_shape_tuple == (3, 6)
    assert str(obs.data_types[0]).endswith("/Float32")
    assert str(fields["episodes/seed"].data_types[0]).endswith("/UInt64")
    assert fields["steps/terminated"].array_shape is None


def test_splits_and_agents_are_readable_records():
    found, _ = read(describe(str(GOLDEN / "ragged.zarr"), TOLD))
    splits = list(found.records("splits"))
    assert [s["splits/episodes"] for s in splits] == [3, 1]
    assert [s["splits/url"] for s in splits] == ["cr:TrainingSplit", "cr:TestSplit"]
    agents = list(found.records("agents"))
    assert [agent["agents/observation_width"] for agent in agents] == [6, 3, 5]


def test_provenance_names_experts_and_parents():
    document = describe(str(GOLDEN / "values.zarr"))
    made = document["prov:wasGeneratedBy"]
    assert [used["prov:label"] for used in made["prov:used"]] == ["expert trained by vdn"] * 2
    assert made["prov:used"][1]["@id"] == f"urn:kd-offline:sha256:{7:064x}"
    assert made["prov:label"].endswith("; then merge")
    assert [p["@id"][-3:] for p in document["prov:wasDerivedFrom"]] == ["111", "222"]
    assert document["identifier"] in document["citeAs"]


def test_every_array_of_the_format_has_a_meaning():
    assert MEANINGS.keys() == RULES.keys()


def test_an_archive(tmp_path):
    archive = tmp_path / "d.zarr.zip"
    kd("pack", GOLDEN / "bare.zarr", "-o", archive)
    document = describe(str(archive), TOLD)
    read(document)
    first, manifest, *_ = document["distribution"]
    assert first["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert manifest["containedIn"] == {"@id": first["@id"]}
    assert manifest["contentUrl"] == "manifest.json"


def test_what_cannot_be_described(tmp_path):
    with pytest.raises(NotADatasetError):
        describe(str(tmp_path))
    with pytest.raises(UsageError, match="not a date"):
        describe(str(GOLDEN / "bare.zarr"), Publication(published="tomorrow"))


def test_the_command(tmp_path):
    path = tmp_path / "croissant.json"
    done = kd("croissant", GOLDEN / "ragged.zarr", "-o", path, "--url", "https://example.org/d")
    assert done.stdout == f"{path}\n"
    assert "who made it; the date of publication" in done.stderr
    assert "--creator and --published" in done.stderr
    printed = kd("croissant", GOLDEN / "ragged.zarr", "--url", "https://example.org/d", "-q")
    assert printed.stderr == ""
    assert json.loads(printed.stdout) == json.loads(path.read_text("utf-8"))
    read(json.loads(printed.stdout))
