"""Reading a manifest from a folder: what is not a finished dataset of ours is refused."""

import numpy as np
import pytest

from kd_offline.datasets.format.layout import update_identity
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import (
    CorruptDatasetError,
    FormatVersionError,
    NotADatasetError,
)
from kd_offline.sealed_json import seal, unseal


def rewrite(buffer: ExpertBuffer, change) -> None:
    """Alter the manifest as a careful forger would: with a valid digest of its own."""
    path = buffer.path / "manifest.json"
    document = unseal(path.read_bytes())
    assert document is not None
    del document["manifest_digest"]
    change(document)
    path.write_bytes(seal(document))


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
        update_identity(document)

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
