"""Reasons why datasets cannot be merged, each as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kd_offline.datasets.edit.rewrite import copied_arrays
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.schemas.dataset import ExpertRecord

# Arrays whose meaning is in the experts' records.
_OUTPUTS = ("steps/logits", "steps/q_values", "steps/mixer_credit")
_VALUES = ("steps/value", "final/value", "steps/q_tot", "steps/q_tot_max", "final/q_tot_max")


def mergeable_arrays(buffer: ExpertBuffer) -> set[str]:
    """Return the full names of all arrays that a merge copies, with masks.

    ``episodes/expert_id`` is not among them, because experts are renumbered.
    """
    masks = {f"masks/{mask}" for mask in buffer.mask_names}
    return (set(copied_arrays(buffer)) | masks) - {"episodes/expert_id"}


def environment_conflicts(parents: Sequence[ExpertBuffer]) -> list[str]:
    """Return the fields in which the environments differ.

    Full observations that only some describe are arrays that only some have.
    """
    first, conflicts = parents[0].spec.model_dump(), []
    for other in parents[1:]:
        other_fields = other.spec.model_dump()
        shared = [key for key in first if key in other_fields]
        differing = [key for key in shared if first[key] != other_fields[key]]
        shown = [_field_values(key, first[key], other_fields[key]) for key in differing]
        if differing:
            conflicts.append(f"{other.where!r} has another environment ({', '.join(shown)})")
    return conflicts


def array_conflicts(parents: Sequence[ExpertBuffer], names: Iterable[str]) -> list[str]:
    """Return the arrays in ``names`` that have different dtypes or widths."""
    conflicts = []
    for name in sorted(names):
        if name.startswith("masks/"):
            continue
        kinds = {_dtype_and_width(parent, name): parent.where for parent in parents}
        if len(kinds) > 1:
            shown = ", ".join(f"{kind} in {where!r}" for kind, where in kinds.items())
            conflicts.append(f"{name} is {shown}")
    return conflicts


def unshared_arrays(parents: Sequence[ExpertBuffer]) -> list[str]:
    """Return the full names of arrays that only some parents have."""
    first, *others = (mergeable_arrays(parent) for parent in parents)
    return sorted(first.union(*others) - first.intersection(*others))


def capture_conflicts(experts: Sequence[ExpertRecord], names: Iterable[str]) -> list[str]:
    """Return which of the arrays in ``names`` have another meaning for other experts."""
    return [
        f"{what} differs ({' and '.join(sorted(map(_meaning_text, kinds)))}), so "
        f"{', '.join(sorted(held))} would have no one meaning"
        for what, held, kinds in _differing_captures(experts, names)
    ]


def incomparable_arrays(parents: Sequence[ExpertBuffer]) -> list[str]:
    """Return the full names of arrays that a merge of ``parents`` has to leave out.

    Only some have them, or their dtypes, widths or meanings differ.
    """
    names = set.union(*map(mergeable_arrays, parents))
    unshared = set(unshared_arrays(parents))
    shared = {name for name in names - unshared if not name.startswith("masks/")}
    other_kind = {
        name for name in shared if len({_dtype_and_width(each, name) for each in parents}) > 1
    }
    experts = [expert for parent in parents for expert in parent.manifest.experts]
    captures = _differing_captures(experts, shared)
    return sorted(unshared.union(other_kind, *(held for _, held, _ in captures)))


def _differing_captures(
    experts: Sequence[ExpertRecord], names: Iterable[str]
) -> list[tuple[str, set[str], set[Any]]]:
    """Return what differs between experts, the arrays in ``names`` it concerns, and its values."""
    names = set(names)
    captures: list[tuple[str, set[str], set[Any]]] = [
        (
            "what the experts put out",
            names.intersection(_OUTPUTS),
            {(e.capture.output, e.capture.masked, e.capture.temperature) for e in experts},
        ),
        (
            "the layer of the embeddings",
            {name for name in names if name.startswith("steps/embedding")},
            {e.capture.embedding for e in experts},
        ),
        (
            "what the values estimate",
            names.intersection(_VALUES),
            {(e.value_of, e.gamma, e.bootstraps_truncation) for e in experts},
        ),
    ]
    return [(what, held, kinds) for what, held, kinds in captures if held and len(kinds) > 1]


def mask_conflicts(parents: Sequence[ExpertBuffer], names: Iterable[str]) -> list[str]:
    """Return the masks (bare names) that are not the same everywhere."""
    return [
        f"mask {name!r} of {other.where!r} is not that of {parents[0].where!r}"
        for name in sorted(names)
        for other in parents[1:]
        if not _same_mask(parents[0], other, name)
    ]


def licence_conflicts(parents: Sequence[ExpertBuffer]) -> list[str]:
    """Return a description of the differences between licences; empty if there are none."""
    licences = dict.fromkeys(parent.manifest.licence for parent in parents)
    if len(licences) < len(("one", "other")):
        return []
    shown = " and ".join(repr(licence) if licence else "none stated" for licence in licences)
    return [f"the licences differ ({shown}): say under which licence the result may be used"]


def _dtype_and_width(parent: ExpertBuffer, name: str) -> str:
    spec = parent.array(name).spec
    return f"{spec.dtype} {list(spec.shape[1:])}" if len(spec.shape) > 1 else spec.dtype


def _same_mask(one: ExpertBuffer, other: ExpertBuffer, name: str) -> bool:
    """Tell whether a mask is drawn by the same rule, or is the same in every episode."""
    records = [buffer.manifest.masks.get(name) for buffer in (one, other)]
    drawn = [record.random_k if record else None for record in records]
    shapes = [buffer.array(f"masks/{name}").spec.shape for buffer in (one, other)]
    if len(shapes[0]) != len(shapes[1]) or drawn[0] != drawn[1]:
        return False
    return len(shapes[0]) > len("NO") or np.array_equal(one.mask(name), other.mask(name))


def _field_values(key: str, first: Any, other: Any) -> str:
    text = f"{key} {first!r} and {other!r}"
    return text if len(text) < 100 else key


def _meaning_text(meaning: Any) -> str:
    parts = meaning if isinstance(meaning, tuple) else (meaning,)
    return ", ".join(str(part) for part in parts if part not in ("", None)) or "not stated"
