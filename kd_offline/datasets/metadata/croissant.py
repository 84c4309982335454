"""``croissant.json``: a dataset described as catalogues and search engines read it.

JSON-LD by version 1.1 of the Croissant specification. The manifest stays the authority: its sha256
is in the description, and it lists the sha256 of every other file. Croissant cannot express how
chunks of an array are put together, so record sets document fields, types and shapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath

from kd_offline.datasets.format.layout import MANIFEST, ZARR_JSON
from kd_offline.datasets.format.manifest import parse_manifest, read_text
from kd_offline.datasets.metadata.croissant_records import Node, record_sets
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import UsageError
from kd_offline.schemas.dataset import DatasetManifest

_VERSION = "http://mlcommons.org/croissant/1.1"
_TERMS = (
    *("annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty"),
    *("excludes", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path"),
    *("recordSet", "references", "regex", "repeated", "replace", "readLines", "samplingRate"),
    *("sdVersion", "separator", "source", "subField", "transform", "unArchive", "value"),
)
_CONTEXT: Node = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}


@dataclass(frozen=True, slots=True)
class Publication:
    """What only the publisher knows; Croissant demands all of it."""

    url: str = ""  # where the dataset lies
    creators: tuple[str, ...] = ()
    published: str = ""  # a date, 2025-06-30


def missing(document: Node) -> list[str]:
    """Return, in words, what Croissant demands and nobody has said."""
    demanded = {
        "license": "a licence, which the manifest does not state",
        "url": "the address (--url)",
        "creator": "who made it (--creator)",
        "datePublished": "the date (--published)",
    }
    return [words for key, words in demanded.items() if key not in document]


def describe(address: str, publication: Publication | None = None) -> Node:
    """Return the Croissant description of the dataset at ``address`` as a JSON document.

    Raises
    ------
    DatasetError
        There is no whole dataset at the address.
    UsageError
        It is an archive on another machine, or the date is none.
    """
    files = open_files(address)
    text = read_text(files)
    manifest = parse_manifest(files.where, text)
    told = publication or Publication()
    _check_date(told.published)
    where = _place(address, told.url)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _VERSION,
        **_head(manifest, told),
        **_provenance(manifest),
        "distribution": [*where.archive, *_files(manifest, where, text)],
        "recordSet": record_sets(manifest),
    }


def _check_date(text: str) -> None:
    try:
        date.fromisoformat(text or "2000-01-01")
    except ValueError:
        msg = f"{text!r} is not a date: write it as 2025-06-30"
        raise UsageError(msg) from None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the files of the dataset lie: below an address, or in an archive."""

    prefix: str
    archive: tuple[Node, ...] = ()

    @property
    def container(self) -> Node:
        """What every file says of the archive that it is in."""
        return {"containedIn": {"@id": self.archive[0]["@id"]}} if self.archive else {}


def _place(address: str, url: str) -> _Place:
    """Return the place that ``url`` says, else one beside the description."""
    plain = split_pin(address)[0].rstrip("/")
    base = url.rstrip("/") or (plain if is_remote(plain) else PurePosixPath(plain).name)
    if not plain.endswith(".zip"):
        return _Place(f"{base}/")
    if is_remote(plain):
        msg = f"the archive {plain!r} is remote: pull it first, since its sha256 is part of this"
        raise UsageError(msg)
    with Path(plain).expanduser().open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    node = {"@type": "cr:FileObject", "@id": "archive", "name": PurePosixPath(plain).name}
    node |= {"contentUrl": base, "encodingFormat": "application/zip", "sha256": found}
    return _Place("", (node,))


def _head(manifest: DatasetManifest, told: Publication) -> Node:
    spec, figures = manifest.environment, manifest.statistics
    text = manifest.description or (
        f"Expert buffer of {spec.id}: {figures.episodes} episodes and {figures.steps} steps of "
        f"{spec.n_agents} agents, with what the expert saw, thought and did."
    )
    head = {
        "name": manifest.name,
        "description": text,
        "version": manifest.version,
        "identifier": manifest.id,
        "license": _licence(manifest.licence),
        "citeAs": manifest.citation or f"{manifest.name} {manifest.version}, {manifest.id}",
        "url": told.url,
        "creator": [{"@type": "sc:Person", "name": name} for name in told.creators],
        "datePublished": told.published,
        "dateCreated": manifest.recording.started_at,
        "keywords": ["multi-agent reinforcement learning", "policy distillation", spec.id],
    }
    return {key: value for key, value in head.items() if value}


def _licence(name: str) -> str:
    """Return the address of a licence that goes by its SPDX name, or what is written."""
    known = name and "/" not in name and " " not in name
    return f"https://spdx.org/licenses/{name}.html" if known else name


def _provenance(manifest: DatasetManifest) -> Node:
    recording, parents = manifest.recording, [p for s in manifest.lineage for p in s.parents]
    activity: Node = {
        "@type": "prov:Activity",
        "prov:label": f"recording of {manifest.environment.id}, seed {recording.seed}, "
        f"{recording.behaviour} actions" + (f"; {recording.noise_rule}" if recording.noise else ""),
        "prov:used": [_expert(expert.kind, expert.digest) for expert in manifest.experts],
        "prov:wasAssociatedWith": [
            {"@type": "prov:SoftwareAgent", "prov:label": f"{name} {version}"}
            for name, version in recording.software.items()
        ],
    }
    if recording.started_at:
        activity["prov:startedAtTime"] = recording.started_at
    found: Node = {"prov:wasGeneratedBy": {k: v for k, v in activity.items() if v}}
    if manifest.lineage:
        found["prov:wasDerivedFrom"] = [{"@id": _urn(parent)} for parent in parents]
        done = ", then ".join(step.operation for step in manifest.lineage)
        found["prov:wasGeneratedBy"]["prov:label"] += f"; then {done}"
    return found


def _expert(kind: str, digest: str | None) -> Node:
    named = {"@type": "prov:Entity", "prov:label": f"expert trained by {kind}"}
    return named | ({"@id": _urn(digest)} if digest else {})


def _urn(digest: str) -> str:
    return f"urn:kd-offline:{digest}"


def _files(manifest: DatasetManifest, where: _Place, text: bytes) -> Iterable[Node]:
    """Yield the manifest with its sha256, and one set of files for each group of arrays."""
    yield {
        "@type": "cr:FileObject",
        "@id": MANIFEST,
        "name": MANIFEST,
        "description": "The manifest; it lists size and sha256 of every other file.",
        "contentUrl": f"{where.prefix}{MANIFEST}",
        "contentSize": f"{len(text)} B",
        "encodingFormat": "application/json",
        "sha256": hashlib.sha256(text).hexdigest(),
        **where.container,
    }
    yield {
        "@type": "cr:FileSet",
        "@id": "files/zarr.json",
        "name": "zarr.json",
        "description": "Metadata of the Zarr v3 groups and arrays.",
        "encodingFormat": "application/json",
        "includes": f"{where.prefix}**/{ZARR_JSON}",
        **where.container,
    }
    for group, chunks in _chunks(manifest).items():
        yield {
            "@type": "cr:FileSet",
            "@id": f"files/{group}",
            "name": group,
            "description": f"{len(chunks)} chunks of the Zarr arrays {group}/*, "
            f"{sum(chunks)} bytes.",
            "encodingFormat": "application/zstd",
            "includes": f"{where.prefix}{group}/*/c/**",
            **where.container,
        }


def _chunks(manifest: DatasetManifest) -> dict[str, list[int]]:
    """Return the sizes of the chunk files of every group."""
    sizes: dict[str, list[int]] = {}
    for file in manifest.files:
        if not file.path.endswith(ZARR_JSON):
            sizes.setdefault(file.path.partition("/")[0], []).append(file.size)
    return sizes
