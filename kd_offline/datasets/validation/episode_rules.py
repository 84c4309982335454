"""What the episode table must satisfy: lengths, splits, seeds, codes and returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from kd_offline.datasets.sampler import IDENTITY, first_alike
from kd_offline.schemas.dataset import DatasetManifest, Problem
from kd_offline.types import Array

# Sums of rewards are kept in float64, but another writer may have added in another order.
RETURN_TOLERANCE = 1e-6


def check_episodes(manifest: DatasetManifest, table: Mapping[str, Array]) -> Iterator[Problem]:
    """Yield what is wrong with the episode table (bare names)."""
    yield from _lengths(manifest, table)
    if "split" in table:
        yield from _splits(manifest, table)
    yield from _codes(manifest, table)
    for name, values in table.items():
        if values.dtype.kind == "f":
            whole = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            yield from _first(~np.asarray(whole), name, "is not finite")
    if "return" in table and "agent_return" in table:
        gap = np.abs(table["agent_return"].sum(axis=1) - table["return"])
        wrong = gap > RETURN_TOLERANCE * (1 + np.abs(table["return"]))
        yield from _first(np.asarray(wrong), "return", "is not the sum over the agents")


def bounds(table: Mapping[str, Array], rows: int) -> Array | None:
    """Return the first row of each episode and the end, int64 [E + 1], if the lengths add up."""
    lengths = table.get("length")
    if lengths is None or lengths.min() < 1 or int(lengths.sum(dtype=np.int64)) != rows:
        return None
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _lengths(manifest: DatasetManifest, table: Mapping[str, Array]) -> Iterator[Problem]:
    lengths = table.get("length")
    if lengths is None:
        return
    rows, limit = manifest.arrays["steps/reward"].shape[0], manifest.environment.episode_limit
    total = int(lengths.sum(dtype=np.int64))
    if total != rows:
        what = f"the lengths add up to {total}, but there are {rows} steps"
        yield Problem(where="episodes/length", what=what)
    yield from _first(np.less(lengths, 1), "length", "is below one")
    what = f"is above the episode limit of {limit}"
    yield from _first(np.greater(lengths, limit), "length", what)
    if "offset" in table:
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        wrong = np.asarray(table["offset"] != starts)
        yield from _first(wrong, "offset", "is not the sum of the lengths before it")


def _splits(manifest: DatasetManifest, table: Mapping[str, Array]) -> Iterator[Problem]:
    codes, splits = table["split"], manifest.splits
    known = [split.code for split in splits.values()]
    yield from _first(~np.isin(codes, known), "split", f"is not one of {known}")
    lengths = table.get("length")
    for name, split in splits.items():
        here = codes == split.code
        if (count := int(here.sum())) != split.episodes:
            what = f"the manifest says {split.episodes} episodes are {name}, but {count} are"
            yield Problem(where="episodes/split", what=what)
        elif lengths is not None and (steps := int(lengths[here].sum())) != split.steps:
            what = f"the manifest says {split.steps} steps are {name}, but {steps} are"
            yield Problem(where="episodes/split", what=what)
    if "seed" in table:
        alike = first_alike(*(table[name] for name in IDENTITY if name in table))
        leaks = codes != codes[alike]
        if leaks.any():
            twin = int(alike[int(np.argmax(leaks))])
            what = f"is the same episode as {twin} (seed, expert, noise), which is in another split"
            yield from _first(leaks, "split", what)


def _codes(manifest: DatasetManifest, table: Mapping[str, Array]) -> Iterator[Problem]:
    if "expert_id" in table:
        known = [expert.id for expert in manifest.experts]
        wrong = ~np.isin(table["expert_id"], known)
        yield from _first(wrong, "expert_id", f"is not one of the recorded experts {known}")
    if "won" in table:
        wrong = ~np.isin(table["won"], (-1, 0, 1))
        yield from _first(wrong, "won", "is not 1 (won), 0 (not won) or -1 (no notion of it)")
    if "noise_level" in table:
        levels = [part.level for part in manifest.recording.noise] or [0.0]
        wrong = ~np.isin(table["noise_level"], np.array(levels, np.float32))
        what = f"is not one of the levels of the recorded mixture {levels}"
        yield from _first(wrong, "noise_level", what)


def _first(bad: Array, name: str, what: str) -> Iterator[Problem]:
    if bad.any():
        more = f" (and {int(bad.sum()) - 1} more episodes)" if bad.sum() > 1 else ""
        yield Problem(where=f"episodes/{name} episode {int(np.argmax(bad))}", what=what + more)
