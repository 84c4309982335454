"""Files of other versions, as docs/format.md says."""

import hashlib
import json

import numpy as np
import pytest

from kd_offline.datasets.format import layout
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.validation.integrity import verify
from kd_offline.errors import CorruptDatasetError, FormatVersionError, NotADatasetError
from kd_offline.sealed_json import seal


def rewrite(path, change):
    """Alter the manifest by ``change``, as another program might have written it."""
    document = json.loads((path / "manifest.json").read_bytes())
    change(document)
    document.pop("manifest_digest")
    layout.identify(document)
    (path / "manifest.json").write_bytes(seal(document))


def listed(path, name, data):
    file = path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("version", [[2, 0], [2, 7], [10, 0]])
def test_newer_major_versions_are_refused_whatever_else_they_hold(ragged, version):
    rewrite(ragged.path, lambda document: document.update(format_version=version, chapters=[]))
    for action in (ExpertBuffer.open, verify):
        with pytest.raises(FormatVersionError, match=f"has format {version[0]}.{version[1]}"):
            action(ragged.path)


def newer_minor(path):
    """What a later 1.x may add: keys everywhere, arrays of new groups and types, their files."""

    def add(document):
        document["format_version"] = [1, 7]
        document["colour"] = {"of": ["everything"]}
        document["environment"]["weather"] = "rain"
        document["experts"][0]["mood"] = None
        document["experts"][0]["capture"]["angle"] = 3
        document["splits"]["train"]["why"] = "drawn"
        document["statistics"]["entropy"] = 0.5
        document["statistics"]["values"]["steps/glances"] = {"average": 1}
        spec = {"shape": [560, 3], "axes": ["R", "N"], "digest": "sha256:" + "0" * 64}
        document["arrays"]["steps/glances"] = spec | {"dtype": "float32", "unit": "s"}
        document["arrays"]["agents/names"] = spec | {"dtype": "text"}
        document["arrays"]["steps/obs"]["unit"] = "m"
        document["files"] += [
            listed(path, "steps/glances/zarr.json", b"{}"),
            listed(path, "steps/glances/c/0/0", b"what"),
            listed(path, "agents/names/all.parquet", b"ever"),
        ]

    rewrite(path, add)


def test_newer_minor_versions_are_read_without_what_they_add(ragged):
    values = ragged.load(ragged.names)
    newer_minor(ragged.path)
    again = ExpertBuffer.open(ragged.path)
    assert again.manifest.format_version == (1, 7)
    assert again.names == ragged.names
    got = again.load(again.names)
    assert all(np.array_equal(got[name], values[name]) for name in values)


def test_files_of_newer_minor_versions_are_verified_all_the_same(ragged):
    newer_minor(ragged.path)
    assert verify(ragged.path).problems == ()
    (ragged.path / "agents/names/all.parquet").write_bytes(b"even")
    (problem,) = verify(ragged.path).problems
    assert "agents/names/all.parquet does not match its sha256" in problem.what


def test_what_a_newer_minor_version_knows_as_well_must_be_the_same(ragged):
    rewrite(
        ragged.path,
        lambda d: (d.update(format_version=[1, 1]), d["arrays"]["steps/obs"].update(dtype="int64")),
    )
    with pytest.raises(CorruptDatasetError, match="steps/obs"):
        ExpertBuffer.open(ragged.path)


def test_unknown_keys_of_our_own_version_are_refused(ragged):
    rewrite(ragged.path, lambda document: document.update(colour="red"))
    with pytest.raises(CorruptDatasetError, match="colour"):
        ExpertBuffer.open(ragged.path)


def test_an_array_of_a_later_minor_version_needs_that_version(ragged):
    def add(document):
        spec = document["arrays"]["steps/terminated"]
        document["arrays"]["steps/q_tot"] = spec | {"dtype": "float32"}
        document["format_version"] = [1, 0]

    rewrite(ragged.path, add)
    with pytest.raises(CorruptDatasetError, match=r"says format 1\.0, but has arrays of 1\.1"):
        ExpertBuffer.open(ragged.path)


@pytest.mark.parametrize("name", [".zgroup", ".zarray", ".zmetadata"])
def test_a_zarr_store_of_version_2_is_not_a_dataset(tmp_path, name):
    (tmp_path / name).write_text('{"zarr_format": 2}')
    for action in (ExpertBuffer.open, verify):
        with pytest.raises(NotADatasetError, match="Zarr store of version 2"):
            action(tmp_path)


def test_metadata_of_zarr_version_2_is_never_read_but_reported(ragged):
    for name in (".zgroup", ".zmetadata", "steps/obs/.zarray", "steps/obs/.zattrs"):
        (ragged.path / name).write_text("{not even JSON")
    assert ExpertBuffer.open(ragged.path).read("steps/obs").shape == (560, 3, 6)
    problems = verify(ragged.path, quick=True).problems
    assert [problem.where for problem in problems] == [
        ".zgroup",
        ".zmetadata",
        "steps/obs/.zarray",
        "steps/obs/.zattrs",
    ]
    assert all("Zarr version 2" in problem.what for problem in problems)
