"""Reading manifests of strangers: refused by what they list before it is looked at in full."""

import copy
import hashlib
import json

import numpy as np
import pytest

from kd_offline import convert
from kd_offline.datasets.format import layout, manifest
from kd_offline.datasets.format.layout import update_identity
from kd_offline.datasets.format.manifest import final_value_warning, parse_manifest
from kd_offline.datasets.metadata import cards, summary
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.validation.integrity import verify
from kd_offline.errors import (
    CorruptDatasetError,
    FormatVersionError,
    NotADatasetError,
)
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.sealed_json import seal, unseal
from kd_offline.testing.factories import environment_spec, tiny_dataset
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


def stated(manifest, *answers):
    """The manifest of experts whose critics bootstrapped at time limits, did not, or may have."""
    (expert,) = manifest.experts
    experts = [expert.model_copy(update={"bootstraps_truncation": a}) for a in answers]
    return manifest.model_copy(update={"experts": tuple(experts)})


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ((True,), None),
        ((True, True), None),
        ((False,), "never learned"),
        ((True, False), "never learned"),
        ((None,), "not known"),
        ((True, None), "not known"),
    ],
)
def test_final_values_count_only_where_every_critic_learned_them(tmp_path, answers, words):
    found = final_value_warning(stated(tiny_dataset(tmp_path / "d").manifest, *answers))
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found
        assert "do not bootstrap from it" in found


def test_without_final_values_there_is_nothing_to_say(tmp_path):
    buffer = tiny_dataset(tmp_path / "d", without=["final/value"])
    assert final_value_warning(stated(buffer.manifest, False)) is None


def test_inspect_card_and_conversion_say_it(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr")
    said = final_value_warning(buffer.manifest)
    assert said is not None
    assert said in "\n".join(summary.render(buffer))
    assert said[1:] in cards.render(buffer)
    assert said in convert(buffer.path, tmp_path / "d.hdf5").notes
    assert said in convert(buffer.path, tmp_path / "d-v0").notes
    assert said not in convert(buffer.path, tmp_path / "x.h5", to="d4rl").notes


def rewrite(path, change):
    """Alter the manifest by ``change``, as another program might have written it."""
    document = json.loads((path / "manifest.json").read_bytes())
    change(document)
    document.pop("manifest_digest")
    layout.update_identity(document)
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


def reseal(buffer: ExpertBuffer, change) -> None:
    """Alter the manifest as a careful forger would: with a valid digest of its own."""
    path = buffer.path / "manifest.json"
    document = unseal(path.read_bytes())
    assert document is not None
    del document["manifest_digest"]
    change(document)
    path.write_bytes(seal(document))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("steps/obs", {"shape": [1, 3, 6]}, "steps/obs: axis R"),
        ("steps/obs", {"dtype": "int32"}, "steps/obs: int32"),
        ("steps/logits", {"axes": ["R", "A", "N"]}, "steps/logits: float32"),
        ("steps/actions", {"shape": [10**12, 3]}, "steps/actions: axis R"),
        ("steps/embedding", {"shape": [456, 3, 10**12]}, "embedding"),
    ],
)
def test_forged_array_tables_are_refused(ragged, name, fields, message):
    def forge(document):
        document["arrays"][name].update(fields)
        update_identity(document)

    reseal(ragged, forge)
    with pytest.raises(CorruptDatasetError, match=message):
        ExpertBuffer.open(ragged.path)


SIGHTED = environment_spec((6, 3), (5, 2), full_widths=(7, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["environment"].pop("full"),
            "has steps/obs_full, but its environment does not",
        ),
        (
            lambda d: [d["arrays"].pop(f"{group}/obs_full") for group in ("steps", "final")],
            "has no steps/obs_full, but its environment describes",
        ),
        (
            lambda d: d["environment"]["full"].update(widths=[8, 4]),
            "steps/obs_full: axis F has 7 entries where 8 are needed",
        ),
        (
            lambda d: d["environment"]["full"]["blocks"]["agent_1"].update(everything=[[0, 5]]),
            "full block 'everything' of 'agent_1' lies beyond its 4 numbers",
        ),
        (
            lambda d: d.update(format_version=[1, 2]),
            r"it says format 1\.2, but has arrays of 1\.3",
        ),
    ],
)
def test_full_observations_and_their_description_belong_together(tmp_path, change, message):
    def forge(document):
        change(document)
        document["statistics"]["values"] = {}
        update_identity(document)

    dataset = tiny_dataset(tmp_path / "d.zarr", spec=SIGHTED)
    reseal(dataset, forge)
    with pytest.raises(CorruptDatasetError, match=message):
        ExpertBuffer.open(dataset.path)


def test_an_expert_states_what_the_format_has_an_array_for(ragged):
    def forge(document):
        document["experts"][0]["capture"]["output"] = "means"
        update_identity(document)

    reseal(ragged, forge)
    words = "expert 0 states 'means', where logits or q_values is needed"
    with pytest.raises(CorruptDatasetError, match=words):
        ExpertBuffer.open(ragged.path)


def test_missing_required_array(ragged):
    def drop(document):
        del document["arrays"]["steps/reward"]
        update_identity(document)

    reseal(ragged, drop)
    with pytest.raises(CorruptDatasetError, match="required arrays are missing: steps/reward"):
        ExpertBuffer.open(ragged.path)
