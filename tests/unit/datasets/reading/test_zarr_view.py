"""A dataset through zarr and xarray: the values of the reader, and its refusals."""

import asyncio
import sys

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

import kd_offline
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import CorruptDatasetError, MissingExtraError, UsageError


def chunk_file(buffer, name="steps/obs"):
    """Return the file of the second chunk of an array."""
    return buffer.path / buffer.array(name).chunk_path(1)


def test_the_group_has_every_array_with_its_values_types_and_axes(ragged):
    group = ragged.to_zarr()
    assert isinstance(group, zarr.Group)
    assert {name for name, _ in group.groups()} == {"steps", "final", "episodes", "masks"}
    for name in ragged.names:
        array, values = group[name], ragged.read(name)
        assert (array.shape, array.dtype) == (values.shape, values.dtype)
        assert np.array_equal(array[:], values)
        assert array.metadata.dimension_names == ragged.array(name).spec.axes


def test_a_range_of_rows_reads_only_the_chunks_that_it_touches(ragged):
    chunk_file(ragged).unlink()
    rows = ragged.array("steps/obs").chunk_rows
    array = ragged.to_zarr()["steps/obs"]
    assert np.array_equal(array[: rows - 1], ragged.read("steps/obs", 0, rows - 1))
    with pytest.raises(CorruptDatasetError, match=r"steps/obs rows .* is missing"):
        array[: rows + 1]


@pytest.mark.parametrize("place", [0, 10, -1])
def test_a_flipped_bit_is_an_error_and_not_a_value(ragged, place):
    file = chunk_file(ragged)
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptDatasetError, match="does not match its sha256"):
        ragged.to_zarr()["steps/obs"][:]


def test_a_chunk_that_claims_more_memory_than_its_shape_is_not_handed_out(ragged, monkeypatch):
    monkeypatch.setattr("kd_offline.datasets.format.chunks.stated_size", lambda data: 1 << 40)
    with pytest.raises(
        CorruptDatasetError, match=r"does not state the .* decoded bytes of a chunk"
    ):
        ragged.to_zarr()["steps/obs"][:]


def test_nothing_can_be_written_or_deleted(ragged):
    group = ragged.to_zarr()
    assert group.read_only
    with pytest.raises((ValueError, UsageError), match="read-only"):
        group["steps/obs"][0] = 1.0
    with pytest.raises((ValueError, UsageError), match="read-only"):
        group.create_array("more", shape=(1,), dtype="int8")
    for refused in (group.store.delete("zarr.json"), group.store.set("zarr.json", None)):
        with pytest.raises(UsageError, match="read-only"):
            asyncio.run(refused)
    with pytest.raises(UsageError, match="read-only"):
        group.store.with_read_only(read_only=False)
    assert group.store.with_read_only(read_only=True) == group.store


def test_the_store_lists_its_files_and_gives_ranges_of_them(ragged):
    store, prototype = ragged.to_zarr().store, default_buffer_prototype()

    async def everything():
        names = [name async for name in store.list()]
        below = [name async for name in store.list_dir("steps/")]
        whole = await store.get("zarr.json", prototype)
        asked = [RangeByteRequest(1, 4), OffsetByteRequest(5), SuffixByteRequest(3)]
        parts = await store.get_partial_values(prototype, [("zarr.json", part) for part in asked])
        absent = await store.get("steps/nothing/zarr.json", prototype)
        return names, below, whole.to_bytes(), [part.to_bytes() for part in parts], absent

    names, below, whole, parts, absent = asyncio.run(everything())
    assert "manifest.json" not in names
    assert {f"{name}/zarr.json" for name in ragged.names} <= set(names)
    assert set(below) == {
        *(n.removeprefix("steps/") for n in ragged.names if n.startswith("steps/")),
        "zarr.json",
    }
    assert parts == [whole[1:4], whole[5:], whole[-3:]]
    assert absent is None
    assert store.supports_listing
    assert not store.supports_writes
    assert not store.supports_deletes


def test_xarray_opens_the_dataset_with_the_axes_of_the_format(ragged):
    tree = ragged.to_xarray()
    assert set(tree.children) == {"steps", "final", "episodes", "masks"}
    reward = tree["steps/reward"]
    assert reward.dims == ("R", "N")
    by_agent = reward.mean("R").values
    assert np.allclose(by_agent, ragged.read("steps/reward").mean(0))
    assert np.array_equal(tree["steps/obs"][3:9].values, ragged.read("steps/obs", 3, 9))


def test_damage_reaches_xarray_as_an_error_where_the_values_are_used(ragged):
    tree = ragged.to_xarray()
    chunk_file(ragged).unlink()
    with pytest.raises(CorruptDatasetError, match="is missing"):
        tree["steps/obs"].load()


def test_without_xarray_the_error_says_what_to_install(ragged, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kd-offline\[xarray\]'"):
        ragged.to_xarray()


def test_an_archive_is_viewed_as_a_folder_is(ragged, tmp_path):
    packed = tmp_path / "packed.zip"
    kd_offline.pack(ragged.path, packed)
    group = ExpertBuffer.open(packed).to_zarr()
    assert np.array_equal(group["steps/reward"][:], ragged.read("steps/reward"))
