"""``diff``: in what two datasets differ, down to the values of the episodes they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kd_offline.datasets.edit.duplicates import digests
from kd_offline.datasets.edit.rewrite import BLOCK_BYTES, episode_slices, row_bytes
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.schemas.dataset_outputs import (
    ArrayDifference,
    DiffReport,
    EpisodeMatch,
    FieldDifference,
    ValueDifference,
)
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.types import Array, IntArray

# What a manifest says that is compared in other ways, or follows from the rest.
_ELSEWHERE = {"id", "arrays", "files", "manifest_digest", "statistics"}
_DERIVED = {"episodes/offset"}


def diff(
    a: str | Path, b: str | Path, *, values: bool = True, observers: Sequence[Observer] = ()
) -> DiffReport:
    """Compare two datasets.

    Episodes are matched by seed, expert and noise level, or by their content where there are no
    seeds or none in common. Values of arrays with equal digests are not read.

    Parameters
    ----------
    values
        Compare the values of the episodes that both have; otherwise manifests and episodes only.
    observers
        Told how many matched episodes are compared.

    Raises
    ------
    DatasetError
        One of them cannot be read.
    """
    one, other = ExpertBuffer.open(a), ExpertBuffer.open(b)
    ours, theirs, by = _matched(one, other)
    compared = _compared(one, other, ours, theirs)
    with observed(Operation("diff", {"a": one.id, "b": other.id}), observers) as observer:
        found = _values(one, other, ours, theirs, compared, observer) if values else {}
    return DiffReport(
        equal=one.id == other.id,
        a=one.id,
        b=other.id,
        fields=tuple(_fields("", _facts(one), _facts(other))),
        arrays=tuple(_arrays(one, other)),
        episodes=EpisodeMatch(
            matched_by=by,
            common=len(ours),
            only_a=one.n_episodes - len(ours),
            only_b=other.n_episodes - len(theirs),
            same_order=bool((np.diff(theirs) > 0).all()),
        ),
        values=found,
    )


def render(report: DiffReport) -> list[str]:
    """Return the report as lines for people."""
    if report.equal and not report.fields:
        return [f"equal: both are {report.a}"]
    lines = ["equal content" if report.equal else "different content"]
    lines += [f"  a  {report.a}", f"  b  {report.b}"]
    lines += [f"{field.name}: {_short(field.a)} | {_short(field.b)}" for field in report.fields]
    for array in report.arrays:
        shown = "" if array.what == "values" else f" ({array.a} | {array.b})"
        if array.what != "rows":
            lines.append(f"{array.name}: {array.what}{shown}")
    if rows := sum(array.what == "rows" for array in report.arrays):
        lines.append(f"{rows} arrays have other numbers of rows")
    match = report.episodes
    lines.append(
        f"episodes: {match.common:,} in both (by {match.matched_by}), {match.only_a:,} only in a, "
        f"{match.only_b:,} only in b{'' if match.same_order else ', in another order'}"
    )
    lines += [
        f"  {name}: {found.entries:,} entries of {found.episodes:,} episodes differ, "
        f"by {found.largest:.3g} at most"
        for name, found in report.values.items()
    ]
    return lines


def _facts(buffer: ExpertBuffer) -> dict[str, Any]:
    return buffer.manifest.model_dump(mode="json", exclude=_ELSEWHERE)


def _fields(name: str, ours: Any, theirs: Any) -> Iterator[FieldDifference]:
    """Yield the innermost fields in which two JSON documents differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            inner = f"{name}.{key}" if name else str(key)
            yield from _fields(inner, ours.get(key), theirs.get(key))
    elif ours != theirs:
        yield FieldDifference(name=name, a=ours, b=theirs)


def _arrays(one: ExpertBuffer, other: ExpertBuffer) -> Iterator[ArrayDifference]:
    ours, theirs = one.manifest.arrays, other.manifest.arrays
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None:
            shown = [f"{s.dtype} {list(s.shape)}" if s else "absent" for s in (a, b)]
            yield ArrayDifference(name=name, what="absent", a=shown[0], b=shown[1])
        elif a.dtype != b.dtype:
            yield ArrayDifference(name=name, what="dtype", a=a.dtype, b=b.dtype)
        elif a.shape != b.shape:
            what: Literal["rows", "shape"] = "rows" if a.shape[1:] == b.shape[1:] else "shape"
            yield ArrayDifference(name=name, what=what, a=str(a.shape), b=str(b.shape))
        elif a.digest != b.digest:
            yield ArrayDifference(name=name, what="values", a=a.digest, b=b.digest)


def _matched(one: ExpertBuffer, other: ExpertBuffer) -> tuple[IntArray, IntArray, str]:
    """Return the indices of the episodes that both have, pair by pair, and how they were found."""
    if one.has("episodes/seed") and other.has("episodes/seed"):
        ours, theirs = _pairs(_recorded_keys(one), _recorded_keys(other))
        if len(ours):
            return ours, theirs, "seed, expert and noise"
    ours, theirs = _pairs(_content_keys(one), _content_keys(other))
    return ours, theirs, "actions and rewards"


def _recorded_keys(buffer: ExpertBuffer) -> list[Any]:
    experts = {e.id: e.digest or e.reference for e in buffer.manifest.experts}
    count = buffer.n_episodes
    expert, noise = [next(iter(experts.values()), "")] * count, [0.0] * count
    if buffer.has("episodes/expert_id"):
        expert = [experts.get(x, "") for x in buffer.episodes("expert_id").tolist()]
    if buffer.has("episodes/noise_level"):
        noise = buffer.episodes("noise_level").tolist()
    return list(zip(buffer.episodes("seed").tolist(), expert, noise, strict=True))


def _content_keys(buffer: ExpertBuffer) -> list[Any]:
    every = np.arange(buffer.n_episodes)
    return list(digests(buffer, every, ("steps/actions", "steps/reward")))


def _pairs(ours: list[Any], theirs: list[Any]) -> tuple[IntArray, IntArray]:
    """Return index pairs of equal keys; the n-th of several equal ones goes with the n-th."""
    places: defaultdict[Any, list[int]] = defaultdict(list)
    for index in reversed(range(len(theirs))):
        places[theirs[index]].append(index)
    pairs = [(index, places[key].pop()) for index, key in enumerate(ours) if places.get(key)]
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _compared(
    one: ExpertBuffer, other: ExpertBuffer, ours: IntArray, theirs: IntArray
) -> tuple[str, ...]:
    """Return the arrays whose values are worth reading: those of both that may differ."""
    whole = len(ours) == one.n_episodes == other.n_episodes and np.array_equal(ours, theirs)
    a, b = one.manifest.arrays, other.manifest.arrays
    return tuple(
        name
        for name in one.names
        if name in b and a[name].shape[1:] == b[name].shape[1:]
        if a[name].axes == b[name].axes and a[name].axes[0] in "RE" and name not in _DERIVED
        if not (whole and a[name].digest == b[name].digest)
    )


def _values(
    one: ExpertBuffer,
    other: ExpertBuffer,
    ours: IntArray,
    theirs: IntArray,
    names: tuple[str, ...],
    observer: Observer,
) -> dict[str, ValueDifference]:
    """Return how much every array differs over the matched episodes; equal ones are left out."""
    lengths = [b.episodes("length")[i] for b, i in ((one, ours), (other, theirs))]
    totals = {name: ValueDifference(entries=0, episodes=0, largest=0.0) for name in names}
    if not names:
        return {}
    for some in episode_slices(np.maximum(*lengths), 2 * row_bytes(one, names), BLOCK_BYTES):
        a, b, size = ours[some], theirs[some], lengths[0][some]
        same = size == lengths[1][some]  # steps of episodes that last differently have no pairs
        for name in names:
            keep = same if name.startswith("steps/") else np.ones(len(a), bool)
            if keep.any():
                left, right = (x.load([name], i[keep])[name] for x, i in ((one, a), (other, b)))
                steps = size[keep] if name.startswith("steps/") else np.ones(int(keep.sum()), int)
                totals[name] = _added(totals[name], left, right, steps)
        observer.progress(some.stop, len(ours), "episodes")
    return {name: found for name, found in totals.items() if found.entries}


def _added(total: ValueDifference, a: Array, b: Array, steps: Array) -> ValueDifference:
    """Count the differences of rows ``a`` and ``b`` in; ``steps``: rows of each episode."""
    odd = a != b
    if not odd.any():
        return total
    gap = np.abs(a[odd].astype(np.float64) - b[odd].astype(np.float64))
    rows = odd.reshape(len(odd), -1).any(axis=1)
    episodes = np.add.reduceat(rows.astype(np.int64), np.cumsum(steps) - steps) > 0
    return ValueDifference(
        entries=total.entries + int(odd.sum()),
        episodes=total.episodes + int(episodes.sum()),
        largest=max(total.largest, float(gap.max())),
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
