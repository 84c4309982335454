"""Datasets that are valid in every respect but were wrong before they were written."""

from kd_offline.datasets import DatasetWriter, EpisodeBlock, ExpertBuffer
from kd_offline.datasets.format.layout import RULES
from kd_offline.schemas.dataset import RecordingHeader


def rewritten(buffer, path, changes=None, *, manifest=None, without=()):
    """Write ``buffer`` again; ``changes`` maps full names to functions of the whole array."""
    arrays = {
        name: buffer.read(name).copy()
        for name in buffer.names
        if not (name in RULES and RULES[name].derived) and name not in without
    }
    for name, change in (changes or {}).items():
        arrays[name] = change(arrays[name])
    groups = {
        group: {n.split("/")[1]: v for n, v in arrays.items() if n.startswith(f"{group}/")}
        for group in ("steps", "final", "episodes", "masks")
    }
    fields = {name: getattr(buffer.manifest, name, None) for name in RecordingHeader.model_fields}
    fields["heldout"] = 0.05
    header = RecordingHeader(**fields | (manifest or {}))
    with DatasetWriter.create(path, header) as writer:
        writer.append(EpisodeBlock(groups["steps"], groups["final"], groups["episodes"]))
        writer.commit(groups["masks"])
    return ExpertBuffer.open(path)


def shifted(values):
    """Return ``values`` with every row in the place of the next."""
    out = values.copy()
    out[1:] = values[:-1]
    return out
