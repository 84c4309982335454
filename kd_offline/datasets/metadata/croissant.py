"""``croissant.json``: the description of a dataset for catalogues and search engines.

JSON-LD by version 1.1 of the Croissant specification. It holds the sha256 of the manifest, which
lists the sha256 of every other file. Croissant cannot express how chunks of an array are joined, so
the record sets only document fields, types and shapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

from kd_offline.datasets.format.layout import MANIFEST, ZARR_JSON
from kd_offline.datasets.format.manifest import require_whole
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.manifest_file import read_manifest_and_text
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import UsageError
from kd_offline.schemas.dataset import ArraySpec, DatasetManifest

Node = dict[str, Any]

_SPLITS = {"train": "cr:TrainingSplit", "heldout": "cr:TestSplit"}

_TYPES = {"bool": "sc:Boolean", "uint8": "cr:UInt8", "uint64": "cr:UInt64"}

_RECORDS = {
    "steps": "One record a transition; the episodes lie one after the other.",
    "final": "One record an episode: what is seen after its last transition.",
    "episodes": "One record an episode.",
    "masks": "Student masks: one record an agent, or an episode where the shape has two axes.",
}

MEANINGS: dict[str, str] = {
    "steps/obs": "the expert's observation before the step, padded with zeros",
    "steps/obs_full": "what the agent would see with nothing hidden, padded with zeros",
    "steps/state": "state of the whole environment before the step",
    "steps/available_actions": "actions that are legal",
    "steps/alive": "whether the agent acts in this step",
    "steps/actions": "action that was executed",
    "steps/behaviour_logprob": "log probability of the executed action under what chose it",
    "steps/action_source": "who chose the action: 0 expert, 1 noise, 2 another policy",
    "steps/logits": "the expert's logits: raw, unmasked, temperature 1",
    "steps/q_values": "the expert's action values, raw",
    "steps/q_tot": "what the team's executed actions are worth together, mixed from its values",
    "steps/q_tot_max": "the same of its greedy actions",
    "steps/mixer_credit": "how much q_tot rises with the agent's own value",
    "steps/embedding": "hidden layer of the expert, named in its record",
    "steps/value": "the expert's critic before the step, in raw reward units",
    "steps/reward": "raw reward of each agent",
    "steps/terminated": "whether the task ended with this step",
    "steps/truncated": "whether the episode was cut off with this step, by a limit",
    "final/obs": "observation after the last step",
    "final/obs_full": "what the agent would see with nothing hidden, after the last step",
    "final/state": "state after the last step",
    "final/available_actions": "legal actions after the last step",
    "final/alive": "whether the agent still acts after the last step",
    "final/value": "the expert's critic after the last step; to bootstrap from only where it "
    "learned what follows a time limit (bootstraps_truncation)",
    "final/q_tot_max": "what the greedy actions after the last step would be worth together",
    "episodes/offset": "row of the first step in the steps arrays",
    "episodes/length": "number of steps",
    "episodes/seed": "seed that resets the environment to this episode",
    "episodes/return": "sum of the rewards of all agents and steps",
    "episodes/agent_return": "sum of the rewards of each agent",
    "episodes/won": "1 won, 0 not won, -1 where the task has no notion of winning",
    "episodes/noise_level": "level of behaviour noise",
    "episodes/expert_id": "which of the recorded experts played",
    "episodes/split": "code of the split that the episode belongs to",
}

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
    """Fields that Croissant demands and only the publisher knows."""

    url: str = ""  # address of the dataset
    creators: tuple[str, ...] = ()
    published: str = ""  # a date, 2025-06-30


def missing_fields(document: Node) -> list[str]:
    """Return descriptions of demanded fields that ``document`` lacks."""
    demanded = {
        "license": "a licence, which the manifest does not state",
        "url": "the address",
        "creator": "who made it",
        "datePublished": "the date of publication",
    }
    return [description for key, description in demanded.items() if key not in document]


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
    manifest, text = read_manifest_and_text(files)
    require_whole(files.address, manifest)
    publisher = publication or Publication()
    _check_date(publisher.published)
    where = _locate_files(address, publisher.url)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _VERSION,
        **_description(manifest, publisher),
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
class _FileLocation:
    """The location of the dataset's files: below an address, or in an archive."""

    prefix: str
    archive: tuple[Node, ...] = ()

    @property
    def container(self) -> Node:
        """The fields with which every file refers to its archive."""
        return {"containedIn": {"@id": self.archive[0]["@id"]}} if self.archive else {}


def _locate_files(address: str, url: str) -> _FileLocation:
    """Return the location that ``url`` names, else one beside the description."""
    plain = split_pin(address)[0].rstrip("/")
    base = url.rstrip("/") or (plain if is_remote(plain) else PurePosixPath(plain).name)
    if not plain.endswith(".zip"):
        return _FileLocation(f"{base}/")
    if is_remote(plain):
        msg = f"the archive {plain!r} is remote: pull it first, since its sha256 is part of this"
        raise UsageError(msg)
    with Path(plain).expanduser().open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    node = {"@type": "cr:FileObject", "@id": "archive", "name": PurePosixPath(plain).name}
    node |= {"contentUrl": base, "encodingFormat": "application/zip", "sha256": sha256}
    return _FileLocation("", (node,))


def _description(manifest: DatasetManifest, publication: Publication) -> Node:
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
        "url": publication.url,
        "creator": [{"@type": "sc:Person", "name": name} for name in publication.creators],
        "datePublished": publication.published,
        "dateCreated": manifest.recording.started_at,
        "keywords": ["multi-agent reinforcement learning", "policy distillation", spec.id],
    }
    return {key: value for key, value in head.items() if value}


def _licence(name: str) -> str:
    """Return the address of a licence with an SPDX name, else the text itself."""
    known = name and "/" not in name and " " not in name
    return f"https://spdx.org/licenses/{name}.html" if known else name


def _provenance(manifest: DatasetManifest) -> Node:
    recording, parents = manifest.recording, [p for s in manifest.lineage for p in s.parents]
    activity: Node = {
        "@type": "prov:Activity",
        "prov:label": f"recording of {manifest.environment.id}, seed {recording.seed}, "
        f"{recording.behaviour} actions" + (f"; {recording.noise_rule}" if recording.noise else ""),
        "prov:used": [_expert_entity(expert.kind, expert.digest) for expert in manifest.experts],
        "prov:wasAssociatedWith": [
            {"@type": "prov:SoftwareAgent", "prov:label": f"{name} {version}"}
            for name, version in recording.software.items()
        ],
    }
    if recording.started_at:
        activity["prov:startedAtTime"] = recording.started_at
    provenance: Node = {"prov:wasGeneratedBy": {k: v for k, v in activity.items() if v}}
    if parents:
        provenance["prov:wasDerivedFrom"] = [{"@id": _urn(parent)} for parent in parents]
        done = ", then ".join(step.operation for step in manifest.lineage if step.parents)
        provenance["prov:wasGeneratedBy"]["prov:label"] += f"; then {done}"
    return provenance


def _expert_entity(kind: str, digest: str | None) -> Node:
    entity = {"@type": "prov:Entity", "prov:label": f"expert trained by {kind}"}
    return entity | ({"@id": _urn(digest)} if digest else {})


def _urn(digest: str) -> str:
    return f"urn:kd-offline:{digest}"


def _files(manifest: DatasetManifest, where: _FileLocation, text: bytes) -> Iterable[Node]:
    """Yield the manifest with its sha256, and a file set for each group of arrays."""
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
    for group, chunks in _chunk_sizes(manifest).items():
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


def _chunk_sizes(manifest: DatasetManifest) -> dict[str, list[int]]:
    """Return group -> sizes of its chunk files."""
    sizes: dict[str, list[int]] = {}
    for file in manifest.files:
        if not file.path.endswith(ZARR_JSON):
            sizes.setdefault(file.path.partition("/")[0], []).append(file.size)
    return sizes


def record_sets(manifest: DatasetManifest) -> list[Node]:
    """Return the record sets: splits and agents as records, arrays as fields."""
    return [_split_records(manifest), _agent_records(manifest), *_array_records(manifest)]


def _array_records(manifest: DatasetManifest) -> Iterable[Node]:
    for group, text in _RECORDS.items():
        fields = [
            _field(name, spec, manifest)
            for name, spec in manifest.arrays.items()
            if name.startswith(f"{group}/")
        ]
        if fields:
            yield _record_set(group, text, fields)


def _field(name: str, spec: ArraySpec, manifest: DatasetManifest) -> Node:
    """Return the description of one array; its first axis is the record."""
    axes = "".join(f", {axis} = {n}" for axis, n in zip(spec.axes[1:], spec.shape[1:], strict=True))
    group, _, short = name.partition("/")
    mask = manifest.masks.get(short) if group == "masks" else None
    text = array_meaning(name) if mask is None else f"{array_meaning(name)}; {mask.description}"
    node: Node = {
        "@type": "cr:Field",
        "@id": name,
        "name": name,
        "description": f"{text}{axes}; content digest {spec.digest}",
        "dataType": _TYPES.get(spec.dtype, f"cr:{spec.dtype.capitalize()}"),
        "source": {"fileSet": {"@id": f"files/{group}"}, "extract": {"fileProperty": "content"}},
    }
    if len(spec.shape) > 1:
        node |= {"isArray": True, "arrayShape": ",".join(map(str, spec.shape[1:]))}
    if name == "episodes/split":
        node["references"] = {"field": {"@id": "splits/code"}}
    return node


def _split_records(manifest: DatasetManifest) -> Node:
    rows = [
        {"name": name, "url": _SPLITS.get(name, "cr:Split"), **split.model_dump()}
        for name, split in manifest.splits.items()
    ]
    types = {"name": "sc:Text", "url": "sc:URL", "code": "cr:UInt8"}
    types |= {"episodes": "sc:Integer", "steps": "sc:Integer"}
    records = _inline_record_set(
        "splits", "Parts of the episodes; no episode is in two.", types, rows
    )
    return records | {"dataType": "cr:Split", "key": {"@id": "splits/name"}}


def _agent_records(manifest: DatasetManifest) -> Node:
    spec = manifest.environment
    rows = [
        {
            "name": agent,
            "observation_width": spec.obs_widths[index],
            "actions": ", ".join(spec.action_names[index]),
            "observation_blocks": "; ".join(
                f"{block} {' '.join(f'{start}:{stop}' for start, stop in ranges)}"
                for block, ranges in spec.blocks[agent].items()
            ),
        }
        for index, agent in enumerate(spec.agents)
    ]
    types = {"name": "sc:Text", "observation_width": "sc:Integer"}
    types |= {"actions": "sc:Text", "observation_blocks": "sc:Text"}
    records = _inline_record_set("agents", "The agents in the order of axis N.", types, rows)
    return records | {"key": {"@id": "agents/name"}}


def _inline_record_set(name: str, text: str, types: dict[str, str], rows: Sequence[Node]) -> Node:
    """Return a record set that contains its records."""
    fields = [
        {"@type": "cr:Field", "@id": f"{name}/{key}", "name": f"{name}/{key}", "dataType": kind}
        for key, kind in types.items()
    ]
    data = [{f"{name}/{key}": row[key] for key in types} for row in rows]
    return _record_set(name, text, fields) | {"data": data}


def _record_set(name: str, text: str, fields: Sequence[Node]) -> Node:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": text,
        "field": list(fields),
    }


def array_meaning(name: str) -> str:
    """Return a description of what array ``name`` holds."""
    if name.startswith("masks/"):
        return "student mask: true where the student sees the feature"
    if name.startswith("steps/embedding_"):
        return f"hidden layer {name.removeprefix('steps/embedding_')!r} of the expert"
    return MEANINGS[name]
