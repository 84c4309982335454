"""Never a silent wrong value: any altered byte anywhere is noticed by ordinary reading."""

import numpy as np
import pytest

from kd_offline.datasets.integrity import verify
from kd_offline.datasets.reader import ExpertBuffer
from kd_offline.errors import DatasetError
from kd_offline.testing.factories import tiny_dataset

FLIPS_PER_FILE = 6


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


def test_every_flipped_bit_is_noticed(whole):
    path, manifest, arrays = whole
    rng = np.random.default_rng(0)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    assert len({file.name for file in files}) >= 3, "chunks, metadata and manifest"
    for file in files:
        good = file.read_bytes()
        for bit in rng.integers(0, 8 * len(good), FLIPS_PER_FILE):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << (bit % 8)
            file.write_bytes(bytes(bad))
            assert reads_differently(path, manifest, arrays) == "refused", (file, bit)
        file.write_bytes(good)
    assert reads_differently(path, manifest, arrays) is None


@pytest.mark.parametrize("damage", ["delete", "empty", "truncate", "extend"])
def test_every_damaged_file_is_noticed_and_named(whole, damage):
    path, manifest, arrays = whole
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        good = file.read_bytes()
        if damage == "delete":
            file.unlink()
        else:
            changed = {"empty": b"", "truncate": good[:-1], "extend": good + b"\0"}
            file.write_bytes(changed[damage])
        assert reads_differently(path, manifest, arrays) == "refused", file
        if file.name != "manifest.json":
            relative = file.relative_to(path).as_posix()
            problems = verify(path, quick=file.name.isdigit()).problems
            assert any(relative in p.where + p.what for p in problems), relative
        file.write_bytes(good)
    assert verify(path).ok
