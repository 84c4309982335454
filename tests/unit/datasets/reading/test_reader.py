import json
import subprocess
import sys

import numpy as np
import pytest

from kd_offline.datasets.format.layout import identify
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import (
    CorruptDatasetError,
    FormatVersionError,
    MissingArrayError,
    NotADatasetError,
    UnknownNameError,
    UsageError,
)
from kd_offline.sealed_json import seal, unseal
from kd_offline.testing.factories import tiny_dataset

ALL = ["steps/obs", "steps/actions", "final/obs", "episodes/seed", "masks/full"]


def rewrite(buffer: ExpertBuffer, change) -> None:
    """Alter the manifest as a careful forger would: with a valid digest of its own."""
    path = buffer.path / "manifest.json"
    document = unseal(path.read_bytes())
    assert document is not None
    del document["manifest_digest"]
    change(document)
    path.write_bytes(seal(document))


def test_what_a_dataset_says(ragged):
    assert ragged.n_episodes == 40
    assert ragged.n_steps == ragged.episodes("length").sum() == len(ragged.read("steps/reward"))
    assert ragged.mask_names == ("full",)
    assert ragged.has("steps/state")
    assert not ragged.has("steps/q_values")
    assert "40 episodes" in repr(ragged)
    assert ragged.id == ragged.manifest.id


@pytest.mark.parametrize("name", ["steps/obs", "steps/truncated", "episodes/return", "masks/full"])
def test_any_range_of_rows(ragged, name):
    whole = ragged.read(name)
    for start in {0, 1, len(whole) // 2, len(whole)}:
        for stop in {start, min(start + 1, len(whole)), min(start + 40, len(whole)), len(whole)}:
            assert np.array_equal(ragged.read(name, start, stop), whole[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 10_000)])
def test_rows_outside_are_refused(ragged, start, stop):
    with pytest.raises(UsageError, match="steps/obs has rows 0 to"):
        ragged.read("steps/obs", start, stop)


def test_loading_some_episodes_is_a_selection(ragged):
    chosen = np.array([7, 0, 39, 7])
    offset, length = ragged.episodes("offset"), ragged.episodes("length")
    rows = np.concatenate([np.arange(offset[e], offset[e] + length[e]) for e in chosen])
    got = ragged.load(ALL, chosen)
    for name in ALL[:2]:
        assert np.array_equal(got[name], ragged.read(name)[rows])
    for name in ALL[2:4]:
        assert np.array_equal(got[name], ragged.read(name)[chosen])
    assert np.array_equal(got["masks/full"], ragged.mask("full"))
    whole = ragged.load(ALL)
    assert all(np.array_equal(whole[name], ragged.read(name)) for name in ALL)


def test_padded_episodes(ragged):
    chosen = np.array([5, 2, 30])
    arrays, valid = ragged.padded(["steps/reward", "steps/actions"], chosen)
    length = ragged.episodes("length")[chosen]
    assert valid.shape == (3, length.max())
    assert np.array_equal(valid.sum(axis=1), length)
    flat = ragged.load(["steps/reward"], chosen)["steps/reward"]
    assert np.array_equal(arrays["steps/reward"][valid], flat)
    assert not arrays["steps/reward"][~valid].any()


def test_episodes_of_one_length_need_no_padding(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr", lengths=[6] * 5)
    arrays, valid = buffer.padded(["steps/obs"])
    assert valid.all()
    assert np.array_equal(arrays["steps/obs"].reshape(30, 3, 6), buffer.read("steps/obs"))


def test_only_steps_can_be_padded(ragged):
    with pytest.raises(UsageError, match="only steps"):
        ragged.padded(["episodes/seed"])


def test_splits_are_disjoint_and_complete(ragged):
    train, heldout = ragged.split("train"), ragged.split("heldout")
    assert len(heldout) == 2
    assert np.array_equal(np.sort(np.concatenate([train, heldout])), np.arange(40))
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        ragged.split("training")


def test_unknown_names(ragged):
    with pytest.raises(MissingArrayError, match="did you mean 'steps/logits'"):
        ragged.read("logits")
    with pytest.raises(MissingArrayError, match="has no array 'steps/q_values'"):
        ragged.load(["steps/q_values"])
    with pytest.raises(UnknownNameError, match="unknown mask 'ful'"):
        ragged.mask("ful")
    with pytest.raises(UsageError, match="episodes must lie in 0 to 39"):
        ragged.load(["steps/obs"], np.array([40]))


def test_not_a_dataset(tmp_path):
    with pytest.raises(NotADatasetError, match="there is no dataset at"):
        ExpertBuffer.open(tmp_path / "nothing")
    with pytest.raises(NotADatasetError, match="not an expert buffer"):
        ExpertBuffer.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 1}', '"1.0"'])
def test_manifests_that_are_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CorruptDatasetError):
        ExpertBuffer.open(tmp_path)


def test_newer_major_version_is_refused(ragged):
    rewrite(ragged, lambda document: document.update(format_version=[2, 0], shape="unknown"))
    with pytest.raises(FormatVersionError, match=r"format 2\.0, but this version reads 1\.x"):
        ExpertBuffer.open(ragged.path)


def test_newer_minor_version_is_read_without_what_it_adds(ragged):
    def newer(document):
        document.update(format_version=[1, 7], colour="green")
        document["recording"]["weather"] = {"sky": "blue"}
        document["environment"]["gravity"] = 9.81
        document["arrays"]["steps/attention"] = {
            "dtype": "float32",
            "shape": [3],
            "axes": ["Q"],
            "digest": "sha256:" + "0" * 64,
        }
        identify(document)

    rewrite(ragged, newer)
    buffer = ExpertBuffer.open(ragged.path)
    assert not buffer.has("steps/attention")
    assert np.array_equal(buffer.read("steps/obs"), ragged.read("steps/obs"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(colour="green"), "colour: Extra inputs"),
        (lambda d: d.update(id="sha256:" + "0" * 64), "id does not match"),
        (lambda d: d["arrays"]["steps/obs"].update(shape=[1, 3, 6]), "id does not match"),
        (lambda d: d["environment"].update(episode_limit=0), "episode_limit"),
        (lambda d: d["files"][0].update(path="../outside"), "files.0.path"),
        (lambda d: d["files"][0].update(path="/etc/passwd"), "files.0.path"),
        (lambda d: d["statistics"]["returns"].update(mean="much"), "statistics.returns.mean"),
    ],
)
def test_altered_manifests_are_refused(ragged, change, message):
    rewrite(ragged, change)
    with pytest.raises(CorruptDatasetError, match=message):
        ExpertBuffer.open(ragged.path)


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
        identify(document)

    rewrite(ragged, forge)
    with pytest.raises(CorruptDatasetError, match=message):
        ExpertBuffer.open(ragged.path)


def test_missing_required_array(ragged):
    def drop(document):
        del document["arrays"]["steps/reward"]
        identify(document)

    rewrite(ragged, drop)
    with pytest.raises(CorruptDatasetError, match="required arrays are missing: steps/reward"):
        ExpertBuffer.open(ragged.path)


def test_deleted_chunk_names_array_and_rows(ragged):
    (ragged.path / "steps/logits/c/1/0/0").unlink()
    buffer = ExpertBuffer.open(ragged.path)
    with pytest.raises(CorruptDatasetError, match=r"steps/logits rows 16 to 31 .* is missing"):
        buffer.read("steps/logits")
    assert len(buffer.read("steps/logits", 32)) == buffer.n_steps - 32


def test_truncated_chunk(ragged):
    chunk = ragged.path / "steps/obs/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(CorruptDatasetError, match=r"steps/obs rows 0 to 15 .* bytes instead of"):
        ragged.read("steps/obs", 3, 4)


def test_swapped_chunks(ragged):
    first, second = ragged.path / "steps/obs/c/0/0/0", ragged.path / "steps/obs/c/1/0/0"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(CorruptDatasetError, match="steps/obs rows 0 to 15"):
        ragged.read("steps/obs")


@pytest.mark.parametrize("path", ["zarr.json", "steps/zarr.json", "steps/obs/zarr.json"])
def test_altered_or_missing_metadata(ragged, path):
    file = ragged.path / path
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document))
    with pytest.raises(CorruptDatasetError, match=f"{path} .* does not match its sha256"):
        ExpertBuffer.open(ragged.path)
    file.unlink()
    with pytest.raises(CorruptDatasetError, match=f"{path} .* missing"):
        ExpertBuffer.open(ragged.path)


def test_importing_the_reader_is_light():
    code = (
        "import sys, kd_offline.datasets as d, kd_offline.schemas.publish;"
        "d.ExpertBuffer, d.DatasetWriter, d.verify, d.inspect;"
        "heavy = {'torch', 'zarr', 'matplotlib', 'pettingzoo'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
