"""Hostile HDF5 is refused with a reason before its values are read."""

import h5py
import numpy as np
import pytest

from kd_offline import convert
from kd_offline.datasets.convert.interchange import ForeignError

ROWS = 20


def flat(file):
    """A harmless D4RL file of one episode."""
    file["observations"] = np.ones((ROWS, 3), np.float32)
    file["actions"] = np.zeros(ROWS, np.int64)
    file["rewards"] = np.ones(ROWS, np.float32)
    file["terminals"] = np.arange(ROWS) == ROWS - 1


def replace(file, **options):
    del file["observations"]
    return file.create_dataset("observations", **options)


def soft_link(file, folder):
    file["other"] = file["observations"][()]
    del file["observations"]
    file["observations"] = h5py.SoftLink("/other")


def external_link(file, folder):
    with h5py.File(folder / "secret.hdf5", "w") as secret:
        secret["observations"] = np.ones((ROWS, 3), np.float32)
    del file["observations"]
    file["observations"] = h5py.ExternalLink(str(folder / "secret.hdf5"), "/observations")


def external_storage(file, folder):
    (folder / "secret.bin").write_bytes(b"secret" * 100)
    replace(file, shape=(ROWS, 3), dtype="f4", external=[(str(folder / "secret.bin"), 0, 240)])


def virtual(file, folder):
    source = h5py.VirtualSource(str(folder / "secret.hdf5"), "x", shape=(ROWS, 3))
    mapping = h5py.VirtualLayout(shape=(ROWS, 3), dtype="f4")
    mapping[:] = source
    del file["observations"]
    file.create_virtual_dataset("observations", mapping)


def strings(file, folder):
    replace(file, data=["a"] * ROWS)


def opaque(file, folder):
    replace(file, data=np.void(b"pickle"))


def objects(file, folder):
    replace(file, shape=(ROWS, 3), dtype=h5py.vlen_dtype(np.float32))


def references(file, folder):
    replace(file, shape=(ROWS,), dtype=h5py.ref_dtype)


def compound(file, folder):
    replace(file, shape=(ROWS, 3), dtype=[("a", "f4"), ("b", "i4")])


def bomb(file, folder):
    replace(file, shape=(10**12, 3), dtype="f4", chunks=(1000, 3), compression="gzip")


def contiguous_bomb(file, folder):
    """Late allocation: nothing is stored, the fill value would be read."""
    replace(file, shape=(10**9, 3), dtype="f4")


def wide_chunks(file, folder):
    replace(file, shape=(10**6, 200), dtype="f4", chunks=(10**6, 200), compression="gzip")


def twice(file, folder):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((ROWS, 3))
    plist.set_deflate(9)
    plist.set_deflate(9)
    space = h5py.h5s.create_simple((ROWS, 3))
    del file["observations"]
    h5py.h5d.create(file.id, b"observations", h5py.h5t.IEEE_F32LE, space, dcpl=plist)


def plug_in(file, folder):
    replace(file, shape=(ROWS, 3), dtype="f4", chunks=(ROWS, 3), scaleoffset=2)


def a_group(file, folder):
    del file["observations"]
    file.create_group("observations")


def ragged(file, folder):
    replace(file, data=np.ones((ROWS + 1, 3), np.float32))


def continuous(file, folder):
    del file["actions"]
    file["actions"] = np.zeros((ROWS, 2), np.float32)


def negative(file, folder):
    file["actions"][3] = -1


def huge_action(file, folder):
    file["actions"][3] = 1 << 40


def endless(file, folder):
    file["terminals"][...] = False


CASES = {
    soft_link: "soft or external link",
    external_link: "soft or external link",
    external_storage: "in other files",
    virtual: "in other files",
    strings: "not numbers",
    opaque: "not numbers",
    objects: "not numbers",
    references: "not numbers",
    compound: "not numbers",
    bomb: "only 0 bytes are stored",
    contiguous_bomb: "only 0 bytes are stored",
    wide_chunks: "too large to read",
    twice: "compressed more than once",
    plug_in: "compressed by a filter other",
    a_group: "no dataset 'observations'",
    ragged: "not one row for every step",
    continuous: "actions are continuous",
    negative: "an action is -1",
    huge_action: "at most 32768",
    endless: "no episode ends in it",
}


@pytest.mark.parametrize("spoil", CASES, ids=lambda case: case.__name__)
def test_it_is_refused_with_its_reason(tmp_path, spoil):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        flat(file)
        spoil(file, tmp_path)
    with pytest.raises(Exception, match=CASES[spoil]) as caught:
        convert(tmp_path / "x.hdf5", tmp_path / "y.zarr", source_format="d4rl")
    assert isinstance(caught.value, ForeignError) or spoil is huge_action
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "y.zarr").exists()


def test_the_harmless_one_is_read(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        flat(file)
    assert convert(tmp_path / "x.hdf5", tmp_path / "y.zarr").steps == ROWS


def test_what_is_no_hdf5_is_told(tmp_path):
    (tmp_path / "x.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    with pytest.raises(ForeignError, match="the HDF5 library cannot read it"):
        convert(tmp_path / "x.hdf5", tmp_path / "y.zarr", source_format="hdf5")
    (tmp_path / "x.hdf5").write_bytes(b"text")
    with pytest.raises(ForeignError, match="it is no HDF5 file"):
        convert(tmp_path / "x.hdf5", tmp_path / "y.zarr", source_format="hdf5")
