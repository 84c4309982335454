"""What holds for every format: nothing lost silently, nothing half written, one sentence."""

import shutil
import subprocess
import sys

import pytest

from kd_offline import ExpertBuffer, convert, verify
from kd_offline.datasets.convert.convert import FORMATS
from kd_offline.datasets.convert.interchange import ForeignError
from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import (
    KdOfflineError,
    MissingExtraError,
    NotADatasetError,
    StorageError,
    UsageError,
)
from kd_offline.sealed_json import unseal
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from kd_offline.tracking.base import FunctionObserver

NAMES = {"hdf5": "x.hdf5", "vault": "x.vlt", "minari": "x-v0", "d4rl": "x.h5", "d3rlpy": "x.h5"}


LOSSLESS = ["hdf5", "vault", "minari"]


def inside(folder):
    return sorted(path.name for path in folder.iterdir())


def export(buffer, folder, kind, **options):
    if kind == "d3rlpy":
        options.setdefault("agent", "agent_0")
    return convert(buffer.path, folder / NAMES[kind], to=kind, **options)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("which", ["rich", "bare"])
def test_there_and_back_is_the_same_dataset(request, tmp_path, kind, which):
    buffer = request.getfixturevalue(which)
    done = export(buffer, tmp_path, kind)
    assert (done.id, done.not_held, done.kept) == (buffer.id, (), buffer.names)
    back = convert(tmp_path / NAMES[kind], tmp_path / "back.zarr")
    assert (back.source_kind, back.target_kind) == (kind, "expert-buffer")
    assert back.id == buffer.id
    assert verify(tmp_path / "back.zarr").ok
    first, second = (unseal(b.files.read(MANIFEST)) for b in (buffer, ExpertBuffer.open(back.path)))
    for document in (first, second):
        document.pop("files")
        document.pop("manifest_digest")
    assert first == second


@pytest.mark.parametrize("kind", FORMATS)
def test_kept_and_not_held_are_everything(rich, tmp_path, kind):
    done = export(rich, tmp_path, kind)
    lost = {item.array for item in done.not_held}
    assert {*done.kept, *lost} >= set(rich.names)
    assert not set(done.kept) & lost
    assert all(item.why for item in done.not_held)
    assert ("manifest" in lost) == (kind not in LOSSLESS)
    assert (done.episodes, done.steps) == (rich.n_episodes, rich.n_steps)


@pytest.mark.parametrize("kind", ["d4rl", "d3rlpy"])
def test_strict_refuses_what_is_not_held(rich, tmp_path, kind):
    with pytest.raises(UsageError, match=r"cannot hold .*episodes/seed.*leave out strict"):
        export(rich, tmp_path, kind, strict=True)
    assert inside(tmp_path) == []


@pytest.mark.parametrize("kind", LOSSLESS)
def test_strict_allows_what_is_whole(rich, tmp_path, kind):
    export(rich, tmp_path, kind, strict=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_target_is_replaced_only_on_request(rich, tmp_path, kind):
    export(rich, tmp_path, kind)
    with pytest.raises(StorageError, match="exists: choose another path or give overwrite=True"):
        export(rich, tmp_path, kind)
    export(rich, tmp_path, kind, overwrite=True)
    assert inside(tmp_path) == [NAMES[kind]]


def test_overwrite_never_replaces_what_is_no_dataset(rich, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "file.hdf5").write_text("not HDF5")
    for name in ("notes", "file.hdf5"):
        with pytest.raises(StorageError, match="something else than a dataset"):
            convert(rich.path, tmp_path / name, to="hdf5", overwrite=True)
    assert (tmp_path / "notes" / "thesis.txt").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_an_interruption_leaves_nothing(rich, tmp_path, kind):
    def stop(done, total, unit):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(rich, tmp_path, kind, observers=[FunctionObserver(progress=stop)])
    assert inside(tmp_path) == []


@pytest.mark.parametrize("kind", LOSSLESS)
def test_an_interrupted_import_leaves_what_was_there(rich, tmp_path, kind):
    def stop(done, total, unit):
        raise KeyboardInterrupt

    export(rich, tmp_path, kind)
    convert(tmp_path / NAMES[kind], tmp_path / "back.zarr")
    before = inside(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        convert(
            tmp_path / NAMES[kind],
            tmp_path / "back.zarr",
            overwrite=True,
            observers=[FunctionObserver(progress=stop)],
        )
    assert inside(tmp_path) == before
    assert verify(tmp_path / "back.zarr").ok


def test_progress_ends_with_all_steps(rich, tmp_path):
    for kind in FORMATS:
        seen: list = []
        options = {"agent": "agent_0"} if kind == "d3rlpy" else {}
        convert(
            rich.path,
            tmp_path / f"{kind}-v0",
            to=kind,
            observers=[FunctionObserver(progress=lambda *now, seen=seen: seen.append(now))],
            **options,
        )
        assert seen[-1] == (rich.n_steps, rich.n_steps, "steps")


REFUSED = {
    "nothing": ({"source": "none"}, NotADatasetError, "does not exist"),
    "unknown": ({"source": "notes.txt"}, NotADatasetError, "no known format"),
    "kind": ({"to": "zip"}, UsageError, "unknown format 'zip'"),
    "remote": ({"target": "s3://bucket/x.hdf5"}, UsageError, "local path and push that"),
    "silent": ({"target": "x"}, UsageError, "does not tell which format"),
    "copy": ({"to": "expert-buffer"}, UsageError, "both are expert buffers"),
    "agent": ({"to": "hdf5", "agent": "agent_0"}, UsageError, "leave out agent"),
    "who": ({"to": "d4rl", "agent": "agent_9"}, UsageError, "unknown agent 'agent_9'"),
    "one": ({"to": "d3rlpy"}, UsageError, "holds one agent"),
    "name": ({"to": "hdf5", "name": "mine"}, UsageError, "describe what is imported"),
    "minari": ({"to": "minari", "target": "spread"}, UsageError, "end it with a version"),
    "spec": ({"to": "hdf5", "spec": "notes.txt"}, UsageError, "correct that setting"),
    "no spec": ({"to": "hdf5", "spec": "none.json"}, UsageError, "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_usage_is_one_sentence(rich, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("[]")
    arguments, error, words = REFUSED[name]
    given = {"source": rich.path, "target": "x", **arguments}
    with pytest.raises(error, match=words):
        convert(given.pop("source"), given.pop("target"), **given)
    assert inside(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(("kind", "library"), [("hdf5", "h5py"), ("vault", "tensorstore")])
def test_a_missing_library_is_named(rich, tmp_path, monkeypatch, kind, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"'{library}'.*kd-offline\[convert\]"):
        export(rich, tmp_path, kind)


@pytest.mark.parametrize("kind", [*LOSSLESS, "d4rl"])
def test_cut_files_are_refused(rich, tmp_path, kind):
    export(rich, tmp_path, kind)
    whole = tmp_path / NAMES[kind]
    files = [whole] if whole.is_file() else [f for f in whole.rglob("*") if f.is_file()]
    largest = sorted(files, key=lambda file: file.stat().st_size)[-3:]
    for k, file in enumerate(largest):
        copy = copied(whole, tmp_path / str(k))
        cut = copy / file.relative_to(whole) if whole.is_dir() else copy
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        sentence, done = attempt(copy, tmp_path / "y.zarr", kind)
        assert "\n" not in sentence
        # A vault keeps files that it no longer needs.
        assert sentence or (kind, done.id) == ("vault", rich.id)


def copied(whole, folder):
    folder.mkdir()
    (shutil.copytree if whole.is_dir() else shutil.copy)(whole, folder / whole.name)
    return folder / whole.name


def attempt(source, target, kind):
    try:
        return "", convert(source, target, source_format=kind, overwrite=True)
    except KdOfflineError as error:
        return str(error), None


def test_a_kill_leaves_nothing_that_looks_whole(rich, tmp_path):
    code = (
        "import os, sys, kd_offline\n"
        "from kd_offline.tracking.base import FunctionObserver\n"
        "stop = FunctionObserver(progress=lambda done, total, unit: os._exit(9))\n"
        "kd_offline.convert(sys.argv[1], sys.argv[2], to=sys.argv[3], observers=[stop])\n"
    )
    for kind in ("hdf5", "vault", "minari"):
        target = tmp_path / NAMES[kind]
        done = subprocess.run([sys.executable, "-c", code, rich.path, target, kind], check=False)
        assert done.returncode == 9
        assert not target.exists()
        export(rich, tmp_path, kind)
        assert target.exists()


def test_foreign_errors_are_dataset_errors():
    assert ForeignError.exit_code == 1


@pytest.mark.parametrize("kind", NAMES)
def test_steps_in_which_an_agent_waits_are_said(tmp_path, kind):
    """An action of an agent that waits would be learned from as if it had been chosen."""
    spec, block = environment_spec(), episode_block(environment_spec(), [6, 4])
    block.steps["alive"][1::2, 0] = False
    block.steps["available_actions"][1::2, 0] = False
    block.steps["actions"][1::2, 0] = 0
    with DatasetWriter.create(tmp_path / "d.zarr", header(spec)) as writer:
        writer.append(block)
        writer.commit({"full": full_mask(spec)})
    done = export(ExpertBuffer.open(tmp_path / "d.zarr"), tmp_path, kind)
    said = [note for note in done.notes if "waits" in note]
    assert len(said) == 1
    assert said[0].startswith("agent_0 is gone or waits in 5 of 10 steps")


def test_foreign_to_foreign_takes_two_steps(rich, tmp_path):
    export(rich, tmp_path, "hdf5")
    with pytest.raises(UsageError, match="to an expert buffer"):
        convert(tmp_path / "x.hdf5", tmp_path / "x.vlt", to="vault")


def test_what_is_only_written_is_not_read(rich, tmp_path):
    export(rich, tmp_path, "d3rlpy")
    with pytest.raises(UsageError, match="d3rlpy is written, not read"):
        convert(tmp_path / "x.h5", tmp_path / "y.zarr")


@pytest.mark.parametrize("kind", [*LOSSLESS, "d4rl"])
def test_the_wrong_kind_is_told(rich, tmp_path, kind):
    """Every reader meets a file of another kind, and says so."""
    for other in ("hdf5", "vault", "minari", "d4rl"):
        export(rich, tmp_path / other, other)
    for other in {"hdf5", "vault", "minari", "d4rl"} - {kind}:
        with pytest.raises(KdOfflineError) as caught:
            convert(tmp_path / other / NAMES[other], tmp_path / "y.zarr", source_format=kind)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "y.zarr").exists()
