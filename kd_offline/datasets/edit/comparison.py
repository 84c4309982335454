"""``diff``: compare two datasets, down to the values of the episodes that both have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kd_offline.datasets.edit.duplicates import episode_digests
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

# Fields of the manifest that are compared otherwise, or follow from others.
_COMPARED_ELSEWHERE = {"id", "arrays", "files", "manifest_digest", "statistics"}
_DERIVED = {"episodes/offset"}


def diff(
    a: str | Path, b: str | Path, *, values: bool = True, observers: Sequence[Observer] = ()
) -> DiffReport:
    """Return the differences between two datasets.

    Episodes are matched by seed, expert and noise level, or by their content if no seeds agree.
    Values of arrays with equal digests are not read.

    Parameters
    ----------
    values
        Compare the values of the episodes that both have; otherwise manifests and episodes only.
    observers
        They receive the number of matched episodes that are compared.

    Raises
    ------
    DatasetError
        One of them cannot be read.
    """
    buffer_a, buffer_b = ExpertBuffer.open(a), ExpertBuffer.open(b)
    episodes_a, episodes_b, matched_by = _match_episodes(buffer_a, buffer_b)
    compared = _arrays_to_compare(buffer_a, buffer_b, episodes_a, episodes_b)
    with observed(Operation("diff", {"a": buffer_a.id, "b": buffer_b.id}), observers) as observer:
        value_differences = (
            _compare_values(buffer_a, buffer_b, episodes_a, episodes_b, compared, observer)
            if values
            else {}
        )
    return DiffReport(
        equal=buffer_a.id == buffer_b.id,
        a=buffer_a.id,
        b=buffer_b.id,
        fields=tuple(_fields("", _compared_fields(buffer_a), _compared_fields(buffer_b))),
        arrays=tuple(_arrays(buffer_a, buffer_b)),
        episodes=EpisodeMatch(
            matched_by=matched_by,
            common=len(episodes_a),
            only_a=buffer_a.n_episodes - len(episodes_a),
            only_b=buffer_b.n_episodes - len(episodes_b),
            same_order=bool((np.diff(episodes_b) > 0).all()),
        ),
        values=value_differences,
    )


def render(report: DiffReport) -> list[str]:
    """Return the report as lines of text."""
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
        f"  {name}: {difference.entries:,} entries of {difference.episodes:,} episodes differ, "
        f"by {difference.largest:.3g} at most"
        for name, difference in report.values.items()
    ]
    return lines


def _compared_fields(buffer: ExpertBuffer) -> dict[str, Any]:
    return buffer.manifest.model_dump(mode="json", exclude=_COMPARED_ELSEWHERE)


def _fields(name: str, a: Any, b: Any) -> Iterator[FieldDifference]:
    """Yield the innermost fields in which two JSON documents differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            inner = f"{name}.{key}" if name else str(key)
            yield from _fields(inner, a.get(key), b.get(key))
    elif a != b:
        yield FieldDifference(name=name, a=a, b=b)


def _arrays(buffer_a: ExpertBuffer, buffer_b: ExpertBuffer) -> Iterator[ArrayDifference]:
    arrays_a, arrays_b = buffer_a.manifest.arrays, buffer_b.manifest.arrays
    for name in [*arrays_a, *(name for name in arrays_b if name not in arrays_a)]:
        a, b = arrays_a.get(name), arrays_b.get(name)
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


def _match_episodes(
    buffer_a: ExpertBuffer, buffer_b: ExpertBuffer
) -> tuple[IntArray, IntArray, str]:
    """Return the indices of matching episodes in both, and what they were matched by."""
    if buffer_a.has("episodes/seed") and buffer_b.has("episodes/seed"):
        episodes_a, episodes_b = _pairs(_recorded_keys(buffer_a), _recorded_keys(buffer_b))
        if len(episodes_a):
            return episodes_a, episodes_b, "seed, expert and noise"
    episodes_a, episodes_b = _pairs(_content_keys(buffer_a), _content_keys(buffer_b))
    return episodes_a, episodes_b, "actions and rewards"


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
    return list(episode_digests(buffer, every, ("steps/actions", "steps/reward")))


def _pairs(keys_a: list[Any], keys_b: list[Any]) -> tuple[IntArray, IntArray]:
    """Return index pairs of equal keys; the n-th of several equal keys matches the n-th."""
    indices_b: defaultdict[Any, list[int]] = defaultdict(list)
    for index in reversed(range(len(keys_b))):
        indices_b[keys_b[index]].append(index)
    pairs = [
        (index, indices_b[key].pop()) for index, key in enumerate(keys_a) if indices_b.get(key)
    ]
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _arrays_to_compare(
    buffer_a: ExpertBuffer, buffer_b: ExpertBuffer, episodes_a: IntArray, episodes_b: IntArray
) -> tuple[str, ...]:
    """Return the arrays of both whose values may differ."""
    all_match = len(episodes_a) == buffer_a.n_episodes == buffer_b.n_episodes and np.array_equal(
        episodes_a, episodes_b
    )
    arrays_a, arrays_b = buffer_a.manifest.arrays, buffer_b.manifest.arrays
    return tuple(
        name
        for name in buffer_a.names
        if name in arrays_b and arrays_a[name].shape[1:] == arrays_b[name].shape[1:]
        if arrays_a[name].axes == arrays_b[name].axes
        and arrays_a[name].axes[0] in "RE"
        and name not in _DERIVED
        if not (all_match and arrays_a[name].digest == arrays_b[name].digest)
    )


def _compare_values(
    buffer_a: ExpertBuffer,
    buffer_b: ExpertBuffer,
    episodes_a: IntArray,
    episodes_b: IntArray,
    names: tuple[str, ...],
    observer: Observer,
) -> dict[str, ValueDifference]:
    """Return the differences of every array over the matched episodes, if it has any."""
    lengths_a = buffer_a.episodes("length")[episodes_a]
    lengths_b = buffer_b.episodes("length")[episodes_b]
    totals = {name: ValueDifference(entries=0, episodes=0, largest=0.0) for name in names}
    if not names:
        return {}
    both_rows = 2 * row_bytes(buffer_a, names)
    for chunk in episode_slices(np.maximum(lengths_a, lengths_b), both_rows, BLOCK_BYTES):
        # Steps of episodes of different lengths are not compared.
        same_length = lengths_a[chunk] == lengths_b[chunk]
        for name in names:
            of_steps = name.startswith("steps/")
            keep = same_length if of_steps else np.ones(len(same_length), bool)
            if keep.any():
                values_a = buffer_a.load([name], episodes_a[chunk][keep])[name]
                values_b = buffer_b.load([name], episodes_b[chunk][keep])[name]
                rows = lengths_a[chunk][keep] if of_steps else np.ones(int(keep.sum()), int)
                totals[name] = _with_differences(totals[name], values_a, values_b, rows)
        observer.progress(chunk.stop, len(episodes_a), "episodes")
    return {name: difference for name, difference in totals.items() if difference.entries}


def _with_differences(total: ValueDifference, a: Array, b: Array, steps: Array) -> ValueDifference:
    """Return ``total`` with the differences of rows ``a`` and ``b``; ``steps``: rows an episode."""
    differs = a != b
    if not differs.any():
        return total
    gap = np.abs(a[differs].astype(np.float64) - b[differs].astype(np.float64))
    rows = differs.reshape(len(differs), -1).any(axis=1)
    episodes = np.add.reduceat(rows.astype(np.int64), np.cumsum(steps) - steps) > 0
    return ValueDifference(
        entries=total.entries + int(differs.sum()),
        episodes=total.episodes + int(episodes.sum()),
        largest=max(total.largest, float(gap.max())),
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
