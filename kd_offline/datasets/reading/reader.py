"""The expert buffer, opened for reading: arrays, episodes, splits and masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kd_offline.datasets.format.layout import FULL
from kd_offline.datasets.format.resource_limits import check_memory
from kd_offline.datasets.reading.array_reader import StoredArray
from kd_offline.datasets.reading.shards import ShardedArray, gather_rows, open_all_arrays
from kd_offline.datasets.storage.addresses import split_pin
from kd_offline.datasets.storage.manifest_file import read_manifest
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.store import Files
from kd_offline.datasets.storage.threads import parallel_map
from kd_offline.errors import (
    CorruptDatasetError,
    MissingArrayError,
    Remedy,
    UnknownNameError,
    UsageError,
)
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array, BoolArray, IntArray

if TYPE_CHECKING:
    import xarray
    import zarr

# Arrays that are read at once, where files are read in parallel; each uses threads as well.
_ARRAYS_AT_ONCE = 4


class ExpertBuffer:
    """A finished dataset, opened for reading.

    Arrays have full names (``steps/obs``, ``final/value``, ``episodes/seed``). Every byte is
    checked before it is decoded, so damage raises :class:`CorruptDatasetError` and never becomes a
    value. ``final/value`` estimates what follows a time limit only where the expert's
    ``bootstraps_truncation`` is true; see
    :func:`~kd_offline.datasets.format.manifest.final_value_warning`.
    """

    def __init__(
        self, files: Files, manifest: DatasetManifest, arrays: Mapping[str, StoredArray]
    ) -> None:
        self.manifest = manifest
        self.files = files
        self._arrays = dict(arrays)
        self._episodes: dict[str, Array] = {}

    @classmethod
    def open(cls, path: str | Path, manifest: DatasetManifest | None = None) -> ExpertBuffer:
        """Open the dataset at ``path``; reads the manifest and the metadata, no data.

        ``manifest`` is the dataset's, if it was read and checked before, for example with its
        signature. Then none is read again, and only files that it lists can be read.

        Raises
        ------
        NotADatasetError
            There is no dataset.
        UnfinishedError
            There is a recording that was not finished.
        FormatVersionError
            It was written in a newer format.
        CorruptDatasetError
            Manifest or metadata were altered.
        """
        files = open_files(path)
        manifest = read_manifest(files) if manifest is None else manifest
        return cls(files, manifest, open_all_arrays(files, manifest))

    def __repr__(self) -> str:
        return (
            f"ExpertBuffer({self.where!r}, {self.spec.id}, {self.n_episodes} episodes, "
            f"{self.n_steps} steps, {self.id[:19]})"
        )

    @property
    def id(self) -> str:
        """Digest of the content, ``sha256:<hex>``."""
        return self.manifest.id

    @property
    def spec(self) -> EnvironmentSpec:
        """The environment that was recorded."""
        return self.manifest.environment

    @property
    def where(self) -> str:
        """Address of the dataset, as it was given."""
        return self.files.address

    @property
    def path(self) -> Path:
        """The address as a path, for a dataset on this machine."""
        return Path(split_pin(self.where)[0])

    @property
    def n_episodes(self) -> int:
        """Number of episodes, E."""
        return self._arrays["episodes/length"].rows

    @property
    def n_steps(self) -> int:
        """Number of transitions, R."""
        return self._arrays["steps/reward"].rows

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of all arrays."""
        return tuple(self._arrays)

    @property
    def mask_names(self) -> tuple[str, ...]:
        """Names of the student masks that are stored here."""
        return tuple(n.removeprefix("masks/") for n in self._arrays if n.startswith("masks/"))

    def has(self, name: str) -> bool:
        """Tell whether the dataset has an array of this full name."""
        return name in self._arrays

    def array(self, name: str) -> StoredArray:
        """Return the stored array of this full name.

        Raises
        ------
        MissingArrayError
            There is none.
        """
        if name not in self._arrays:
            near = f"steps/{name}"
            hint = f"did you mean {near!r}? It has" if near in self._arrays else "it has"
            msg = (
                f"the dataset at {self.where!r} has no array {name!r}: {hint} "
                f"{', '.join(self._arrays)}"
            )
            again = Remedy("record it with", operation="record", full_observations=True)
            raise MissingArrayError(msg, *([again] if name in FULL else []))
        return self._arrays[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Return rows ``start`` to ``stop`` of an array; decodes only the chunks that hold them.

        Raises
        ------
        MissingArrayError
            There is no such array.
        UsageError
            The rows are not within the array.
        CorruptDatasetError
            A chunk is missing or damaged; the message names the array and the rows.
        """
        stored = self.array(name)
        last = stored.rows if stop is None else stop
        if not 0 <= start <= last <= stored.rows:
            msg = f"{name} has rows 0 to {stored.rows}, got {start} to {last}"
            raise UsageError(msg)
        return stored.read(start, last)

    def load(self, names: Iterable[str], episodes: IntArray | None = None) -> dict[str, Array]:
        """Return arrays by full name, for all episodes or for the given ones in their order.

        ``steps/*`` arrays are [R, ...], the chosen episodes one after the other. All others
        have one row an episode, except a mask that is the same for all, which is [N, O].
        """
        wanted, threads = list(names), min(_ARRAYS_AT_ONCE, self.files.readers)
        chosen = None if episodes is None else self._chosen(episodes)
        rows = None if chosen is None else self._rows(chosen)
        sharded = [a for name in wanted if isinstance(a := self.array(name), ShardedArray)]
        found = dict(
            zip(
                (array.name for array in sharded),
                gather_rows(sharded, {"steps": rows, "final": chosen}),
                strict=True,
            )
        )
        here = [name for name in wanted if name not in found]
        if chosen is None or rows is None:
            values = parallel_map(self.read, here, threads)
        else:
            values = parallel_map(lambda name: self._gather(name, chosen, rows), here, threads)
        found |= zip(here, values, strict=True)
        return {name: found[name] for name in wanted}

    def padded(
        self, names: Iterable[str], episodes: IntArray | None = None
    ) -> tuple[dict[str, Array], BoolArray]:
        """Return ``steps/*`` arrays as [E, T, ...], zero after the end, and ``valid`` bool [E, T].

        ``T`` is the length of the longest chosen episode. Nothing is copied if all have one length.
        """
        chosen = np.arange(self.n_episodes) if episodes is None else self._chosen(episodes)
        lengths = self.episodes("length")[chosen].astype(np.int64)
        longest = int(lengths.max(initial=0))
        valid = np.arange(longest) < lengths[:, None]
        names = list(names)
        if not_steps := [name for name in names if not name.startswith("steps/")]:
            msg = f"only steps/* arrays have a time axis to pad, got {', '.join(not_steps)}"
            raise UsageError(msg)
        flat = self.load(names, None if episodes is None else chosen)
        return {name: _pad(values, valid) for name, values in flat.items()}, valid

    def episodes(self, name: str) -> Array:
        """Return a column of the episode table, [E] or [E, N]; ``name`` without ``episodes/``.

        The array is read-only. It is read once and kept.
        """
        if name not in self._episodes:
            values = self.read(f"episodes/{name}")
            if name in ("offset", "length"):
                self._check_lengths(name, values)
            values.flags.writeable = False
            self._episodes[name] = values
        return self._episodes[name]

    def mask(self, name: str) -> BoolArray:
        """Return a student mask, bool [N, O], or [E, N, O] where it differs by episode."""
        if name not in self.mask_names:
            raise UnknownNameError(what="mask", got=name, allowed=self.mask_names)
        return self.read(f"masks/{name}")

    def split(self, name: str) -> IntArray:
        """Return the indices of the episodes in a part such as ``train``, int64, ascending."""
        splits = self.manifest.splits
        if name not in splits:
            raise UnknownNameError(what="split", got=name, allowed=splits)
        return np.flatnonzero(self.episodes("split") == splits[name].code)

    def to_zarr(self) -> zarr.Group:
        """Return the arrays as a read-only ``zarr.Group``; every byte is checked when it is read.

        ``group["steps/obs"][:10]`` returns the values of ``read("steps/obs", 0, 10)``. What differs
        from the manifest raises :class:`CorruptDatasetError`.
        """
        from kd_offline.datasets.reading.zarr_view import open_group

        return open_group(self.where, self._arrays)

    def to_xarray(self) -> xarray.DataTree:
        """Return the arrays as an ``xarray.DataTree``; values are read and checked when used.

        Its nodes are ``steps``, ``final``, ``episodes`` and ``masks``. Dimensions are the axes
        of the format.

        Raises
        ------
        MissingExtraError
            xarray is not installed.
        """
        from kd_offline.datasets.reading.zarr_view import open_tree

        return open_tree(self.where, self._arrays)

    def _chosen(self, episodes: IntArray) -> IntArray:
        chosen = np.asarray(episodes, dtype=np.int64)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < self.n_episodes):
            given_range = f"{chosen.min()} to {chosen.max()}"
            msg = f"episodes must lie in 0 to {self.n_episodes - 1}, got {given_range}"
            raise UsageError(msg)
        return chosen

    def _rows(self, chosen: IntArray) -> IntArray:
        """Return the rows of all steps of the chosen episodes, in order, int64."""
        lengths = self.episodes("length")[chosen].astype(np.int64)
        ends = np.cumsum(lengths)
        shift = self.episodes("offset")[chosen] - (ends - lengths)
        rows: IntArray = np.arange(int(lengths.sum())) + np.repeat(shift, lengths)
        return rows

    def _gather(self, name: str, chosen: IntArray, rows: IntArray) -> Array:
        if name.startswith("masks/") and len(self.array(name).spec.shape) == len("NO"):
            return self.read(name)
        return self.array(name).gather(rows if name.startswith("steps/") else chosen)

    def _check_lengths(self, name: str, values: Array) -> None:
        """Check offsets and lengths, by which rows are looked up, before any row is read."""
        lengths = values if name == "length" else self.episodes("length")
        consistent = lengths.min() >= 1 and int(lengths.sum(dtype=np.int64)) == self.n_steps
        if name == "offset":
            consistent &= np.array_equal(values, np.cumsum(lengths, dtype=np.int64) - lengths)
        if not consistent:
            msg = (
                f"episodes/{name} of the dataset at {self.where!r} does not add up to its "
                f"{self.n_steps} steps: run verify and get a fresh copy"
            )
            raise CorruptDatasetError(msg)


def _pad(values: Array, valid: BoolArray) -> Array:
    if valid.all():
        return values.reshape(*valid.shape, *values.shape[1:])
    check_memory(valid.size * values[:1].nbytes, f"{len(valid):,} padded episodes")
    out = np.zeros((*valid.shape, *values.shape[1:]), values.dtype)
    out[valid] = values
    return out
