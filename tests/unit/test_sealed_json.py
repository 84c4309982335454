"""Documents that carry their digest: any damage is one sentence, whatever the document is."""

import os
from pathlib import Path

import pytest

from kd_offline.deployment.document import read_profile
from kd_offline.distillation.distill import ResumeState
from kd_offline.errors import (
    CheckpointError,
    FormatVersionError,
    KdOfflineError,
    StorageError,
    UnsealedWarning,
)
from kd_offline.experts.checkpoint import read_card
from kd_offline.experts.load import bundled_folder
from kd_offline.exports.engines import read_manifest
from kd_offline.runs.folder import RunFolder, read_evaluation
from kd_offline.schemas.document import Document
from kd_offline.schemas.run import RunManifest
from kd_offline.schemas.sweep import SweepPlan
from kd_offline.sealed_json import read_document, sealed_text, write_document
from kd_offline.testing.reports import run_manifest
from tests.sealing import resealed, unsealed

READERS = {
    "run.json": lambda path: RunFolder(path).manifest(),
    "evaluation.json": read_evaluation,
    "latency.json": lambda path: RunFolder(path).latency(),
    "quantisation.json": lambda path: RunFolder(path).quantisation(),
    "expert.json": read_card,
    "export.json": read_manifest,
    "profile.json": read_profile,
    "plan.json": lambda path: read_document(SweepPlan, path / "plan.json", "begin another"),
    "state.json": lambda path: read_document(ResumeState, path / "state.json", "begin another"),
}
DAMAGES = {
    "a byte with its top bit flipped": lambda text: text[:40] + bytes([text[40] | 128]) + text[41:],
    "a NUL byte": lambda text: text[:40] + b"\0" + text[41:],
    "cut short": lambda text: text[: len(text) // 2],
    "empty": lambda text: b"",
    "no object": lambda text: b"[]\n",
    "a key twice": lambda text: b'{"kind": 1, "kind": 2}',
    "deeper than anything": lambda text: b"[" * 100_000,
    "no JSON": lambda text: b"\xff\xfe nonsense",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_damage_is_one_sentence(name, damage, tmp_path):
    write_document(tmp_path / "run.json", run_manifest())
    text = (tmp_path / "run.json").read_bytes()
    (tmp_path / name).write_bytes(DAMAGES[damage](text))
    with pytest.raises(
        CheckpointError, match=r"(is damaged|does not match its own digest).*; "
    ) as e:
        READERS[name](tmp_path)
    assert name in str(e.value)
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize("what", ["folder", "link", "pipe"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_plain_file_is_never_read(name, what, tmp_path):
    write_document(tmp_path / "other.json", run_manifest())
    make = {"folder": Path.mkdir, "link": lambda p: p.symlink_to("other.json"), "pipe": os.mkfifo}
    make[what](tmp_path / name)
    with pytest.raises(KdOfflineError) as refused:
        READERS[name](tmp_path)
    assert len(str(refused.value).splitlines()) == 1


def test_every_bit_of_a_document_counts(tmp_path):
    file = tmp_path / "run.json"
    write_document(file, run_manifest(seeds=(0,)))
    text = file.read_bytes()
    for bit in range(0, 8 * len(text), 7):
        altered = bytearray(text)
        altered[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(altered)
        with pytest.raises(KdOfflineError):
            RunFolder(tmp_path).manifest()


def test_an_edited_document_says_so(tmp_path):
    file = tmp_path / "run.json"
    write_document(file, run_manifest())
    file.write_text(file.read_text().replace('"limited"', '"full"'))
    with pytest.raises(CheckpointError, match="it was damaged, or edited by hand; restore it"):
        RunFolder(tmp_path).manifest()


def test_a_document_of_an_older_version_is_read_with_a_warning(tmp_path):
    file = tmp_path / "run.json"
    write_document(file, run_manifest())
    unsealed(file, version=[1, 1])
    with pytest.warns(UnsealedWarning, match=r"run\.json' was written before .* distil again"):
        assert RunFolder(tmp_path).manifest().results == run_manifest().results


def test_leaving_the_digest_out_turns_no_protection_off(tmp_path):
    file = tmp_path / "run.json"
    write_document(file, run_manifest())
    text = file.read_bytes()
    file.write_bytes(text.replace(b'"digest": "sha256:', b'"dikest": "sha256:'))
    with pytest.raises(CheckpointError):
        RunFolder(tmp_path).manifest()
    file.write_bytes(text)
    unsealed(file)
    with pytest.raises(CheckpointError, match="does not end with its digest"):
        RunFolder(tmp_path).manifest()


def test_a_newer_version_asks_for_a_newer_program(tmp_path):
    file = tmp_path / "run.json"
    write_document(file, run_manifest())
    for version in ([2, 0], [1, 9]):
        resealed(file, version=version, mood="curious")
        with pytest.raises(FormatVersionError, match="install a newer kd-offline"):
            RunFolder(tmp_path).manifest()


def test_what_is_written_can_be_read_whatever_a_path_is_called(tmp_path):
    strange = run_manifest().model_copy(update={"command": "kd-offline \udcff \u202e \x1b[2J ü"})
    write_document(tmp_path / "run.json", strange)
    assert RunFolder(tmp_path).manifest().command == "kd-offline \ufffd \ufffd \ufffd[2J ü"
    assert sealed_text(strange).isascii()


def test_a_document_larger_than_any_is_not_read(tmp_path):
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StorageError, match="has more than"):
        RunFolder(tmp_path).manifest()


def test_bundled_experts_are_sealed():
    card = read_card(bundled_folder("mpe/simple_spread_v3", "default"))
    assert card.format_version >= card.SEALED_SINCE
    assert card.weights is not None


def test_every_document_states_since_when_it_is_sealed():
    for model in (RunManifest, SweepPlan, ResumeState):
        assert issubclass(model, Document)
        field = "version" if "version" in model.model_fields else "format_version"
        assert model.model_fields[field].default >= model.SEALED_SINCE > (1, 0)
