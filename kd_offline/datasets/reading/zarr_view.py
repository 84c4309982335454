"""A read-only view of a dataset for the Zarr library; every byte is checked.

:class:`~kd_offline.datasets.reading.reader.ExpertBuffer` reads faster and knows episodes. This view
is for libraries that take a ``zarr.Group``, such as xarray and dask.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Never

import zarr
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from kd_offline.datasets.format import layout
from kd_offline.datasets.reading.array_reader import StoredArray
from kd_offline.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import xarray


class CheckedStore(Store):
    """The Zarr files of a dataset, read-only; a file that differs from the manifest is an error.

    Metadata are made from the manifest's array table. A chunk is returned only if its size and
    sha256 are as listed and it states the decoded size of its shape, so Zarr allocates no more.

    Parameters
    ----------
    address
        Address of the dataset, for its name.
    arrays
        Opened and checked, by full name.
    """

    def __init__(self, address: str, arrays: Mapping[str, StoredArray]) -> None:
        super().__init__(read_only=True)
        self.address = address
        self._arrays = dict(arrays)
        groups = {name.partition("/")[0] for name in arrays}
        self._metadata = {
            f"{group}/{layout.ZARR_JSON}": layout.group_metadata() for group in groups
        }
        self._metadata[layout.ZARR_JSON] = layout.group_metadata()
        self._chunks: dict[str, tuple[StoredArray, int]] = {}
        for name, array in arrays.items():
            spec, rows = array.spec, array.chunk_rows
            # Readers ignore the level of the codec.
            text = layout.array_metadata(spec.dtype, spec.shape, rows, spec.axes, level=0)
            self._metadata[f"{name}/{layout.ZARR_JSON}"] = text
            self._chunks |= {array.chunk_path(k): (array, k) for k in range(array.chunk_count)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckedStore) and (
            (self.address, self._arrays) == (other.address, other._arrays)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"CheckedStore({self.address!r})"

    def with_read_only(self, read_only: bool = False) -> CheckedStore:
        """Return the same store; there is no way to write through it.

        Raises
        ------
        UsageError
            ``read_only`` is false.
        """
        if not read_only:
            _refuse()
        return CheckedStore(self.address, self._arrays)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a file, or a range of them; None where there is no such file.

        Raises
        ------
        CorruptDatasetError
            They are not those that the manifest promises.
        """
        data = self._bytes(key)
        return None if data is None else prototype.buffer.from_bytes(_byte_range(data, byte_range))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return ranges of several files, in their order; raises as :meth:`get` does."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    def _bytes(self, key: str) -> bytes | None:
        if key in self._metadata:
            return self._metadata[key]
        if key not in self._chunks:
            return None
        array, index = self._chunks[key]
        return array.checked_chunk_bytes(index)

    async def exists(self, key: str) -> bool:
        """Tell whether there is a file of this name."""
        return key in self._metadata or key in self._chunks

    async def list(self) -> AsyncIterator[str]:
        """Yield every file."""
        for key in (*self._metadata, *self._chunks):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield every file whose name begins with ``prefix``."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of what lies directly below ``prefix``."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        below = {
            key.removeprefix(folder).partition("/")[0] async for key in self.list_prefix(folder)
        }
        for name in sorted(below):
            yield name

    @property
    def supports_writes(self) -> bool:
        """False: a finished dataset does not change."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """False: a finished dataset does not change."""
        return False

    @property
    def supports_listing(self) -> bool:
        """True: the manifest lists every file."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse to write."""
        _refuse()

    async def delete(self, key: str) -> None:
        """Refuse to delete."""
        _refuse()


def open_group(address: str, arrays: Mapping[str, StoredArray]) -> zarr.Group:
    """Return the arrays as a read-only Zarr group, with one group below it for each kind."""
    store = CheckedStore(address, arrays)
    return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)


def open_tree(address: str, arrays: Mapping[str, StoredArray]) -> xarray.DataTree:
    """Return the arrays of a dataset as an ``xarray.DataTree``, read when their values are used.

    Raises
    ------
    MissingExtraError
        xarray is not installed.
    """
    try:
        import xarray
    except ModuleNotFoundError as error:
        what = "a dataset as an xarray.DataTree"
        raise MissingExtraError(library="xarray", extra="xarray", purpose=what) from error
    store = CheckedStore(address, arrays)
    return xarray.open_datatree(store, engine="zarr", consolidated=False)


def _byte_range(data: bytes, byte_range: ByteRequest | None) -> bytes:
    match byte_range:
        case RangeByteRequest(start=start, end=end):
            return data[start:end]
        case OffsetByteRequest(offset=offset):
            return data[offset:]
        case SuffixByteRequest(suffix=suffix):
            return data[max(0, len(data) - suffix) :]
    return data


def _refuse() -> Never:
    msg = (
        "a dataset is read-only: change it with kd_offline.filter, merge or annotate into a new one"
    )
    raise UsageError(msg)
