"""The files of a Flashbax Vault: Zarr v2 arrays in TensorStore's key-value store, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.interchange import WINDOW_ROWS, foreign_error, import_library
from kd_offline.datasets.format import layout
from kd_offline.files import write_file
from kd_offline.types import Array

VERSION = 1.2
METADATA_FILE = "metadata.json"
INDEX = "vault_index"
MANIFEST_KEY = "kd_offline_manifest"
MASKS_KEY = "kd_offline_masks"
LEAF_NAMES = {
    "obs": "observations",
    "actions": "actions",
    "reward": "rewards",
    "terminated": "terminals",
    "truncated": "truncations",
    "available_actions": "infos/legals",
    "state": "infos/state",
}
"""Bare name of a ``steps`` array -> its leaf with a name of OG-MARL."""

_DECLARED_LENGTH = 10**13  # of every stream; the index has the real length
_GZIP = {"id": "gzip", "level": 5}
_LARGEST_CHUNK = 256 << 20
_LARGEST_JSON = 256 << 20
_CACHE = 128 << 20


def leaf_name(name: str) -> str:
    """Return the leaf of an array, such as ``infos/kd_logits`` or ``infos/kd_final_obs``."""
    group, short = name.split("/", 1)
    if group == "steps":
        return LEAF_NAMES.get(short) or f"infos/kd_{short}"
    return f"infos/kd_{ {'final': 'final', 'episodes': 'episode', 'masks': 'mask'}[group] }_{short}"


def split_64_bit(values: Array) -> Array:
    """Return 64-bit integers as pairs of uint32, low half first, because JAX reads no others."""
    if values.dtype.itemsize < 8 or values.dtype.kind not in "iu":
        return values
    return values.astype("<u8").view("<u4").reshape(*values.shape, 2)


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is a vault, or a ``.vlt`` folder of vaults."""
    if not path.is_dir():
        return False
    return _is_vault(path) or (path.suffix == ".vlt" and any(map(_is_vault, path.iterdir())))


def find_vault(path: Path) -> Path:
    """Return the folder of the vault at ``path``, or of the only one in a ``.vlt`` folder.

    Raises
    ------
    ForeignError
        There is none, or there are several.
    """
    if _is_vault(path):
        return path
    inside = sorted(filter(_is_vault, path.iterdir())) if path.is_dir() else []
    if not inside:
        raise foreign_error(
            path, "it is no vault (metadata.json and manifest.ocdbt)", "check the path"
        )
    if len(inside) > 1:
        names = ", ".join(folder.name for folder in inside)
        raise foreign_error(path, f"it holds the vaults {names}", "give the folder of one of them")
    return inside[0]


def metadata_of(folder: Path) -> dict[str, Any]:
    """Return the vault's ``metadata.json``.

    Raises
    ------
    ForeignError
        It is damaged, or of another version.
    """
    file = folder / METADATA_FILE
    if file.stat().st_size > _LARGEST_JSON:
        raise foreign_error(folder, f"{METADATA_FILE} is too large")
    try:
        document = json.loads(file.read_bytes())
        version, structure = document["version"], document["structure_dtype"]
        is_readable = isinstance(structure, dict) and int(version) == int(VERSION)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise foreign_error(folder, f"{METADATA_FILE} is damaged or not that of a vault") from None
    if not is_readable:
        raise foreign_error(folder, f"it has version {version}, but {int(VERSION)}.x is read")
    return dict(document)


@dataclass(frozen=True, slots=True)
class VaultArrays:
    """The open leaves of a vault by path (``infos/legals``); arrays [B, time, ...]."""

    folder: Path
    leaves: Mapping[str, Any]
    index: Any
    rows: int  # rows of a window of whole chunks

    def write(self, start: int, values: Mapping[str, Array]) -> None:
        """Write rows [n, ...] of every leaf into the only stream, in one transaction."""
        ts = import_library("tensorstore", "a vault")
        with ts.Transaction() as commit:
            for name, rows in values.items():
                leaf = self.leaves[name].with_transaction(commit)
                leaf[0, start : start + len(rows)].write(rows).result()

    def finish(self, steps: int) -> None:
        """Write the number of steps; before that the vault has none."""
        self.index.write(np.array([steps], np.int32)).result()

    def read(self, name: str, stream: int, start: int, stop: int) -> Array:
        """Return rows [n, ...] of a leaf."""
        try:
            return np.asarray(self.leaves[name][stream, start:stop].read().result())
        except ValueError as error:
            rows = f"rows {start} to {stop - 1} of leaf {name!r} cannot be read"
            raise foreign_error(self.folder, f"{rows} ({_first_line(error)})") from error


def create(folder: Path, leaves: Mapping[str, tuple[str, tuple[int, ...]]]) -> VaultArrays:
    """Make the leaves of a new vault with one stream, by dtype and shape of a row."""
    widest = max(int(np.prod(tail)) * np.dtype(dtype).itemsize for dtype, tail in leaves.values())
    rows = layout.chunk_rows(widest)
    arrays = {
        name: _open(
            folder,
            _key(name),
            shape=(1, _DECLARED_LENGTH, *tail),
            dtype=dtype,
            chunks=[1, rows, *tail],
        )
        for name, (dtype, tail) in leaves.items()
    }
    index = _open(folder, INDEX, shape=(1,), dtype="int32", chunks=[1])
    return VaultArrays(folder, arrays, index, rows)


def open_stores(folder: Path, metadata: Mapping[str, Any]) -> tuple[VaultArrays, int]:
    """Open every leaf of a vault for reading; return them and the steps of each stream.

    Raises
    ------
    ForeignError
        A leaf is missing, damaged, or too large to be read.
    """
    names = _leaf_paths(metadata["structure_dtype"])
    ts = import_library("tensorstore", "a vault")
    context = ts.Context({"cache_pool": {"total_bytes_limit": _CACHE}})
    leaves = {name: _checked(folder, name, _key(name), context) for name in names}
    index = _checked(folder, INDEX, INDEX, context)
    try:
        steps = int(index.read().result()[0])
    except (ValueError, IndexError) as error:
        raise foreign_error(folder, "its vault_index cannot be read") from error
    if any(leaf.ndim < 2 or not 0 <= steps <= leaf.shape[1] for leaf in leaves.values()):
        raise foreign_error(folder, f"its leaves do not hold the {steps} steps of vault_index")
    return VaultArrays(folder, leaves, index, WINDOW_ROWS), steps


def episode_ends(stores: VaultArrays, stream: int, start: int, stop: int) -> tuple[Array, int]:
    """Return which steps end an episode, bool [n], and how often only some agents are done."""
    rows = stop - start
    done = stores.read("terminals", stream, start, stop).reshape(rows, -1) != 0
    if "truncations" in stores.leaves:
        done |= stores.read("truncations", stream, start, stop).reshape(rows, -1) != 0
    ended = done.all(axis=1)
    return ended, int((done.any(axis=1) & ~ended).sum())


def write_metadata(
    folder: Path, stores: VaultArrays, steps: int, own_fields: Mapping[str, Any]
) -> None:
    """Write ``metadata.json``: the tree of leaves, and ``own_fields``."""
    shapes: dict[str, Any] = {}
    dtypes: dict[str, Any] = {}
    for name, leaf in stores.leaves.items():
        _put(shapes, name, str((1, steps, *leaf.shape[2:])))
        _put(dtypes, name, leaf.dtype.name)
    document = {
        "version": VERSION,
        "structure_shape": shapes,
        "structure_dtype": dtypes,
        **own_fields,
    }
    write_file(folder / METADATA_FILE, json.dumps(document))


def _is_vault(path: Path) -> bool:
    return (path / METADATA_FILE).is_file() and (path / "manifest.ocdbt").is_file()


def _open(folder: Path, key: str, context: Any = None, **create: Any) -> Any:
    """Open an array of the store, or create it with the shape, dtype and chunks in ``create``."""
    ts = import_library("tensorstore", "a vault")
    base = {"driver": "file", "path": f"{folder.resolve()}/"}
    spec: dict[str, Any] = {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": base, "path": key},
    }
    if not create:
        return ts.open(spec, read=True, context=context).result()
    spec["metadata"] = {"compressor": _GZIP, "chunks": create["chunks"]}
    dtype = ts.dtype(create["dtype"])
    return ts.open(spec, shape=create["shape"], dtype=dtype, create=True).result()


def _checked(folder: Path, name: str, key: str, context: Any) -> Any:
    try:
        leaf = _open(folder, key, context)
    except ValueError as error:
        raise foreign_error(
            folder, f"leaf {name!r} cannot be opened ({_first_line(error)})"
        ) from error
    if np.dtype(leaf.dtype.numpy_dtype).kind not in "biuf":
        raise foreign_error(folder, f"leaf {name!r} has dtype {leaf.dtype.name}, not numbers")
    chunk = leaf.chunk_layout.read_chunk.shape
    size = int(np.prod(chunk, dtype=object)) * leaf.dtype.numpy_dtype.itemsize
    if size > _LARGEST_CHUNK:
        raise foreign_error(folder, f"leaf {name!r} has chunks of {list(chunk)}, too large to read")
    return leaf


def _leaf_paths(tree: Mapping[str, Any], before: str = "") -> list[str]:
    """Return the paths of the leaves of nested dictionaries."""
    paths: list[str] = []
    for key, value in tree.items():
        path = f"{before}{key}"
        paths += _leaf_paths(value, f"{path}/") if isinstance(value, dict) else [path]
    return paths


def _key(name: str) -> str:
    return name.replace("/", ".") + "."


def _put(tree: dict[str, Any], path: str, value: str) -> None:
    """Put a leaf into nested dictionaries, at most one level deep."""
    head, _, rest = path.partition("/")
    if rest:
        tree.setdefault(head, {})[rest] = value
    else:
        tree[head] = value


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
