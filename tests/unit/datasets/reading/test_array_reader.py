"""Never a silent wrong value: any altered byte anywhere is noticed by ordinary reading."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.validation.integrity import verify
from kd_offline.errors import (
    CorruptDatasetError,
    DatasetError,
)
from kd_offline.testing.factories import tiny_dataset


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


FLIPS = 400


# Verifying after every flip would take ten seconds; the files are the same, so every few will do.
VERIFIED_EVERY = 8


@pytest.fixture
def whole(tmp_path, small_chunks):
    buffer = tiny_dataset(tmp_path / "d.zarr", lengths=[9, 11])
    return buffer.path, buffer.manifest, buffer.load(buffer.names)


def reads_differently(path, manifest, arrays):
    """Return how ordinary reading noticed a difference, None if it did not."""
    try:
        buffer = ExpertBuffer.open(path)
        got = buffer.load(arrays)
    except DatasetError as error:
        return "refused" if str(path) in str(error) else "not named"
    same = buffer.manifest == manifest and all(np.array_equal(got[n], arrays[n]) for n in arrays)
    return None if same else "silent"


def everything(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def is_reported(path, file, quick=False):
    """Tell whether ``verify`` names the file, or the manifest that is altered itself."""
    relative = file.relative_to(path).as_posix()
    return any(relative in p.where + p.what for p in verify(path, quick=quick).problems)


def kinds(files):
    return {(file.parent.name if file.name == "zarr.json" else file.suffix) for file in files}


def test_every_flipped_bit_is_noticed(whole):
    """Bits of the manifest and its seal, of all metadata, and of the chunks of every array."""
    path, manifest, arrays = whole
    rng = np.random.default_rng(0)
    files = everything(path)
    assert {".json", "", "d.zarr", "steps", "obs"} <= kinds(files)
    flips = 0
    for number, file in enumerate(files):
        good = file.read_bytes()
        bits = rng.integers(0, 8 * len(good), -(-FLIPS // len(files))).tolist()
        if file.name == "manifest.json":  # its last bytes are the seal
            bits += rng.integers(8 * (len(good) - 90), 8 * len(good), 100).tolist()
        for bit in bits:
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << (bit % 8)
            file.write_bytes(bytes(bad))
            assert reads_differently(path, manifest, arrays) == "refused", (file, bit)
            if flips % VERIFIED_EVERY == 0:
                assert is_reported(path, file, quick=number % 2 == 0), (file, bit)
            flips += 1
        file.write_bytes(good)
    assert flips >= 400
    assert reads_differently(path, manifest, arrays) is None


@pytest.mark.parametrize("damage", ["delete", "empty", "truncate", "extend"])
def test_every_damaged_file_is_noticed_and_named(whole, damage):
    path, manifest, arrays = whole
    for file in everything(path):
        good = file.read_bytes()
        if damage == "delete":
            file.unlink()
        else:
            changed = {"empty": b"", "truncate": good[:-1], "extend": good + b"\0"}
            file.write_bytes(changed[damage])
        assert reads_differently(path, manifest, arrays) == "refused", file
        if file.name != "manifest.json":
            assert is_reported(path, file, quick=file.name.isdigit()), file
        file.write_bytes(good)
    assert verify(path).ok


def test_swapped_files_are_noticed_and_named(whole):
    """Also where both have the same size, and where both are good files of the same array."""
    path, manifest, arrays = whole
    files = [file for file in everything(path) if file.name != "manifest.json"]
    by_size = sorted(files, key=lambda file: file.stat().st_size)
    swaps = [*pairwise(by_size), *pairwise(files)]
    for one, other in swaps:
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        if first == second:
            assert reads_differently(path, manifest, arrays) is None
        else:
            assert reads_differently(path, manifest, arrays) == "refused", (one, other)
            assert is_reported(path, one), (one, other)
        one.write_bytes(first)
        other.write_bytes(second)


def test_additional_files_change_no_value_and_are_reported(whole):
    path, manifest, arrays = whole
    for name in ("steps/obs/c/2/0/0", "steps/obs/c/0/0/1", "steps/new/zarr.json", "0", "c/0"):
        extra = path / name
        extra.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path / "steps/obs/c/1/0/0", extra)
        assert reads_differently(path, manifest, arrays) is None
        assert is_reported(path, extra, quick=True)
        extra.unlink()
    assert verify(path).ok
