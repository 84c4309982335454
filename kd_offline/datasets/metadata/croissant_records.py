"""The record sets of a Croissant description: fields, types and shapes, splits, agents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kd_offline.datasets.metadata.glossary import meaning
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


def record_sets(manifest: DatasetManifest) -> list[Node]:
    """Return what the dataset holds: splits and agents as records, arrays as fields."""
    return [_splits(manifest), _agents(manifest), *_arrays(manifest)]


def _arrays(manifest: DatasetManifest) -> Iterable[Node]:
    for group, text in _RECORDS.items():
        fields = [
            _field(name, spec, manifest)
            for name, spec in manifest.arrays.items()
            if name.startswith(f"{group}/")
        ]
        if fields:
            yield _record_set(group, text, fields)


def _field(name: str, spec: ArraySpec, manifest: DatasetManifest) -> Node:
    """Describe one array: the first axis is the record, the others are the field's shape."""
    axes = "".join(f", {axis} = {n}" for axis, n in zip(spec.axes[1:], spec.shape[1:], strict=True))
    group, _, short = name.partition("/")
    mask = manifest.masks.get(short) if group == "masks" else None
    text = meaning(name) if mask is None else f"{meaning(name)}; {mask.description}"
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


def _splits(manifest: DatasetManifest) -> Node:
    rows = [
        {"name": name, "url": _SPLITS.get(name, "cr:Split"), **split.model_dump()}
        for name, split in manifest.splits.items()
    ]
    types = {"name": "sc:Text", "url": "sc:URL", "code": "cr:UInt8"}
    types |= {"episodes": "sc:Integer", "steps": "sc:Integer"}
    made = _table("splits", "Parts of the episodes; no episode is in two.", types, rows)
    return made | {"dataType": "cr:Split", "key": {"@id": "splits/name"}}


def _agents(manifest: DatasetManifest) -> Node:
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
    made = _table("agents", "The agents in the order of axis N.", types, rows)
    return made | {"key": {"@id": "agents/name"}}


def _table(name: str, text: str, types: dict[str, str], rows: Sequence[Node]) -> Node:
    """Return a record set whose records are in the description itself."""
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
