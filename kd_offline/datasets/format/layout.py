"""Format 1.4 of the expert buffer: tables of its arrays, axes, chunks and codec, and its digests.

``docs/format.md`` describes the same. This module holds pure functions and tables; other modules
read and write files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from typing import Any

from kd_offline.datasets.format.resource_limits import MAX_RANGE_BYTES
from kd_offline.errors import UnknownNameError
from kd_offline.schemas.dataset import ArraySpec
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.sealed_json import canonical_json, digest
from kd_offline.strict_json import parse

FORMAT_VERSION = (1, 3)  # what datasets state that hold all of their arrays
SHARDS_SINCE = (1, 4)
NEWEST_VERSION = SHARDS_SINCE  # that is read
CONTEXT_SINCE = (1, 2)
CONTEXT = "context"  # key of the manifest's environment, see context_digest
MANIFEST = "manifest.json"
JOURNAL = "recording.json"
LOCK = "recording.lock"
SCRATCH = "recording.tmp"
BLOCKS = "recording.blocks"  # folder for episodes that workers have played
UPLOAD = "upload.json"  # at a destination of a copy, until its manifest is there
ZARR_JSON = "zarr.json"
FILES_WITHOUT_CONTENT = frozenset({MANIFEST, JOURNAL, LOCK, SCRATCH, UPLOAD})
ZARR_V2 = (".zgroup", ".zarray", ".zattrs", ".zmetadata")
GROUPS = ("steps", "final", "episodes", "masks")

# A power of two so that row ranges of different datasets line up; see docs/decisions/003-format.md.
MAX_CHUNK_ROWS = 8192
MIN_CHUNK_ROWS = 256
MAX_CHUNK_BYTES = 8 << 20

SPLITS = {"train": 0, "heldout": 1}
ACTION_SOURCES = {"expert": 0, "noise": 1, "other": 2}


class MixerKind(Enum):
    """Guarantees of the mixer of a team's value; every kind has those of the next one too."""

    ADDITIVE = "additive"
    """``q_tot`` is the sum of the agents' values: every credit is 1."""
    MONOTONE = "monotone"
    """``q_tot`` never falls when the value of an agent rises: no credit is negative."""
    IGM = "igm"
    """Individual-global-max: no joint action has a higher ``q_tot`` than the greedy actions."""


MIXERS = {
    "vdn": MixerKind.ADDITIVE,
    "qmix": MixerKind.MONOTONE,
    "qatten": MixerKind.MONOTONE,
    "wqmix": MixerKind.MONOTONE,
    "qplex": MixerKind.IGM,
    "qtran": MixerKind.IGM,
}
"""Name of a mixer in the ``architecture`` of an expert -> its kind; no rule holds for any other."""


@dataclass(frozen=True, slots=True)
class ArrayRule:
    """The dtypes and axes that an array may have. The first of ``dtypes`` is the default."""

    dtypes: tuple[str, ...]
    axes: tuple[str, ...]
    required: bool = False
    derived: bool = False  # computed by the writer, never given to it
    level: int = 1  # zstd; the writer's choice, a reader does not care
    since: int = 0  # minor version of the format


_F32, _BOOL = ("float32",), ("bool",)
# Hidden states are close to random bits. This fast level shrinks only what repeats, such as
# padding and saturated states; see docs/decisions/003-format.md.
_EMBEDDING = ArrayRule(("float16", "float32"), ("R", "N", "H"), level=-50)

RULES: dict[str, ArrayRule] = {
    "steps/obs": ArrayRule(_F32, ("R", "N", "O"), required=True, level=-7),
    "steps/obs_full": ArrayRule(_F32, ("R", "N", "F"), level=-7, since=3),
    "steps/state": ArrayRule(_F32, ("R", "S")),
    "steps/available_actions": ArrayRule(_BOOL, ("R", "N", "A"), required=True),
    "steps/alive": ArrayRule(_BOOL, ("R", "N"), required=True),
    "steps/actions": ArrayRule(("int16",), ("R", "N"), required=True),
    "steps/behaviour_logprob": ArrayRule(_F32, ("R", "N")),
    "steps/action_source": ArrayRule(("uint8",), ("R", "N")),
    "steps/logits": ArrayRule(_F32, ("R", "N", "A")),
    "steps/q_values": ArrayRule(_F32, ("R", "N", "A")),
    "steps/q_tot": ArrayRule(_F32, ("R",), since=1),
    "steps/q_tot_max": ArrayRule(_F32, ("R",), since=1),
    "steps/mixer_credit": ArrayRule(_F32, ("R", "N"), since=1),
    "steps/embedding": _EMBEDDING,
    "steps/value": ArrayRule(_F32, ("R", "N")),
    "steps/reward": ArrayRule(_F32, ("R", "N"), required=True),
    "steps/terminated": ArrayRule(_BOOL, ("R",), required=True),
    "steps/truncated": ArrayRule(_BOOL, ("R",), required=True),
    "final/obs": ArrayRule(_F32, ("E", "N", "O")),
    "final/obs_full": ArrayRule(_F32, ("E", "N", "F"), since=3),
    "final/state": ArrayRule(_F32, ("E", "S")),
    "final/available_actions": ArrayRule(_BOOL, ("E", "N", "A")),
    "final/alive": ArrayRule(_BOOL, ("E", "N")),
    "final/value": ArrayRule(_F32, ("E", "N")),
    "final/q_tot_max": ArrayRule(_F32, ("E",), since=1),
    "episodes/offset": ArrayRule(("int64",), ("E",), required=True, derived=True),
    "episodes/length": ArrayRule(("int32",), ("E",), required=True),
    "episodes/seed": ArrayRule(("uint64",), ("E",)),
    "episodes/return": ArrayRule(("float64",), ("E",), required=True, derived=True),
    "episodes/agent_return": ArrayRule(("float64",), ("E", "N"), required=True, derived=True),
    "episodes/won": ArrayRule(("int8",), ("E",)),
    "episodes/noise_level": ArrayRule(_F32, ("E",)),
    "episodes/expert_id": ArrayRule(("int16",), ("E",)),
    "episodes/split": ArrayRule(("uint8",), ("E",), required=True, derived=True),
}
FULL = tuple(name for name, rule in RULES.items() if "F" in rule.axes)
"""The arrays that the environment's ``full`` describes; a manifest holds it with them alone."""
# What an expert may state of all actions, by the names in its record's ``capture``.
OUTPUTS = tuple(
    name.removeprefix("steps/")
    for name, rule in RULES.items()
    if name.startswith("steps/") and (rule.dtypes, rule.axes) == (_F32, ("R", "N", "A"))
)
_MASK = re.compile(r"masks/[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_TAP = re.compile(r"steps/embedding_[a-z0-9_]{1,40}")


def rule_for(name: str, ndim: int = 2) -> ArrayRule:
    """Return the rule of array ``name``; a mask has ``ndim`` 2 if it is fixed, 3 if by episode.

    Raises
    ------
    UnknownNameError
        The format has no such array.
    """
    if name in RULES:
        return RULES[name]
    if _TAP.fullmatch(name):
        return _EMBEDDING
    if _MASK.fullmatch(name):
        return ArrayRule(_BOOL, ("N", "O") if ndim == 2 else ("E", "N", "O"))
    raise UnknownNameError(
        what="array", got=name, allowed=[*RULES, "steps/embedding_<tap>", "masks/<name>"]
    )


def is_known_array(name: str) -> bool:
    """Tell whether this version of the format has an array of this name."""
    try:
        rule_for(name)
    except UnknownNameError:
        return False
    return True


def oldest_version_with(names: Iterable[str]) -> tuple[int, int]:
    """Return the oldest version of the format that has all these arrays."""
    return FORMAT_VERSION[0], max((RULES[n].since for n in names if n in RULES), default=0)


def required_arrays(group: str, *, derived: bool = False) -> list[str]:
    """Return the arrays that ``group`` must have, with ``derived`` also the writer's own."""
    rules = ((name, rule) for name, rule in RULES.items() if name.startswith(f"{group}/"))
    return [name for name, rule in rules if rule.required and (derived or not rule.derived)]


def axis_sizes(spec: EnvironmentSpec, rows: int, episodes: int) -> dict[str, int]:
    """Return the size of every axis but ``H``, from the environment and the numbers of rows.

    ``F`` is there where the environment describes full observations.
    """
    full = {} if spec.full is None else {"F": spec.full.width}
    return full | {
        "R": rows,
        "E": episodes,
        "N": spec.n_agents,
        "O": spec.obs_width,
        "A": spec.action_count,
        "S": spec.state_width,
    }


def described(spec: EnvironmentSpec, names: Iterable[str]) -> EnvironmentSpec:
    """Return the environment of a dataset with the arrays ``names``, full names.

    Without full observations it does not describe them.
    """
    return spec.local if {*FULL}.isdisjoint(names) else spec


def chunk_rows(widest_row_bytes: int, all_rows_bytes: int = 0) -> int:
    """Return the rows of a chunk, the same for all arrays that share a row grid.

    It is the largest power of two that keeps a chunk of the widest array within
    ``MAX_CHUNK_BYTES``, from ``MIN_CHUNK_ROWS`` to ``MAX_CHUNK_ROWS``. The chunks of all arrays
    together (``all_rows_bytes`` a row) never take more than a reader accepts.
    """
    rows = _power_of_two(MAX_CHUNK_BYTES // max(1, widest_row_bytes))
    most = _power_of_two(MAX_RANGE_BYTES // max(1, widest_row_bytes, all_rows_bytes))
    return min(most, max(MIN_CHUNK_ROWS, min(MAX_CHUNK_ROWS, rows)))


def _power_of_two(number: int) -> int:
    """Return the largest power of two up to ``number``, at least 1."""
    return 1 << (max(1, number).bit_length() - 1)


def chunk_path(name: str, index: int, ndim: int) -> str:
    """Return the path of the file of chunk ``index``; only the first axis is divided."""
    return f"{name}/c/{index}" + "/0" * (ndim - 1)


def chunk_count(rows: int, per_chunk: int) -> int:
    """Return how many chunks hold ``rows`` rows."""
    return -(-rows // per_chunk)


@cache
def group_metadata() -> bytes:
    """Return the ``zarr.json`` of a group."""
    return _json_text({"zarr_format": 3, "node_type": "group", "attributes": {}})


@lru_cache(maxsize=1024)
def array_metadata(
    dtype: str, shape: tuple[int, ...], rows: int, axes: tuple[str, ...], level: int
) -> bytes:
    """Return the ``zarr.json`` of an array whose chunks hold ``rows`` rows each."""
    return _json_text(_array_document(dtype, list(shape), [rows, *shape[1:]], list(axes), level))


def is_group_metadata(text: bytes) -> bool:
    """Tell whether ``text`` is the ``zarr.json`` of a group, whatever its spacing and order."""
    try:
        return canonical_json(parse(text)) == canonical_json(json.loads(group_metadata()))
    except ValueError:
        return False


def parse_array_metadata(text: bytes, spec: ArraySpec) -> int | None:
    """Return the rows of a chunk, if ``text`` is the ``zarr.json`` that ``spec`` needs, or None.

    The codec's level and the number of rows are free. Other codecs, shapes, grids and fill
    values are refused.
    """
    try:
        document = parse(text)
        rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]
        level = document["codecs"][1]["configuration"]["level"]
    except (ValueError, LookupError, TypeError):
        return None
    if type(rows) is not int or type(level) is not int or rows < 1:
        return None
    chunk = [rows, *spec.shape[1:]]
    expected = _array_document(spec.dtype, list(spec.shape), chunk, list(spec.axes), level)
    return rows if canonical_json(document) == canonical_json(expected) else None


def _array_document(
    dtype: str, shape: list[int], chunk: list[int], axes: list[str], level: int
) -> dict[str, Any]:
    endian = {} if dtype in ("bool", "int8", "uint8") else {"configuration": {"endian": "little"}}
    fill: object = False if dtype == "bool" else 0.0 if dtype.startswith("float") else 0
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [
            {"name": "bytes", **endian},
            {"name": "zstd", "configuration": {"level": level, "checksum": True}},
        ],
        "attributes": {},
        "dimension_names": axes,
        "storage_transformers": [],
    }


def content_digest(dtype: str, shape: Iterable[int], values_sha256: str) -> str:
    """Return the digest of an array from the sha256 of its values, in C order, little-endian."""
    header = {"dtype": dtype, "shape": list(shape), "values": values_sha256}
    return digest(canonical_json(header))


# Fields that readers show and do not compute with, so they are not part of the id.
_DESCRIPTIVE_FIELDS = {
    "experts": {"missing"},
    "masks": {"description"},
    "recording": {
        *("episodes", "batch", "noise_rule", "software", "code_revision"),
        *("machine", "started_at", "seconds"),
    },
}


def context_digest(document: Mapping[str, Any]) -> str:
    """Return the digest of what readers compute with besides the environment and the arrays.

    It covers ``experts``, ``masks``, ``recording`` and ``splits`` of the manifest as written, with
    keys of later versions, but without fields that only describe.
    """

    def relevant(part: str, table: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in table.items() if key not in _DESCRIPTIVE_FIELDS[part]}

    content = {
        "experts": [relevant("experts", expert) for expert in document["experts"]],
        "masks": {name: relevant("masks", mask) for name, mask in document["masks"].items()},
        "recording": relevant("recording", document["recording"]),
        "splits": document["splits"],
    }
    return digest(canonical_json(content))


def update_identity(document: dict[str, Any]) -> None:
    """Set the ``id`` of a manifest and, from format 1.2 on, the digest of its context.

    The context lies in ``environment``. Readers of 1.0 and 1.1 copy that into the id as it is, so
    they check the context without knowing it.
    """
    environment = {k: v for k, v in document["environment"].items() if k != CONTEXT}
    if tuple(document["format_version"]) >= CONTEXT_SINCE:
        environment[CONTEXT] = context_digest(document)
    document["environment"] = environment
    document["id"] = dataset_id(document)


def dataset_id(document: Mapping[str, Any]) -> str:
    """Return the id of a dataset from its manifest as parsed JSON.

    It is a digest of the content and of what gives it meaning. Names, licences, dates, machines,
    software, statistics, chunks and codecs do not change it. It is computed from the document as
    written, so fields of later minor versions never change the id of older files.
    """
    meaning = ("id", "digest", "capture", "gamma", "value_of")
    content = {
        "format": document["format_version"][0],
        "environment": document["environment"],
        "experts": [{k: e[k] for k in meaning if k in e} for e in document["experts"]],
        "arrays": document["arrays"],
    }
    return digest(canonical_json(content))


def _json_text(value: object) -> bytes:
    return json.dumps(value, indent=2).encode("ascii") + b"\n"
