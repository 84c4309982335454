"""Batches of several datasets, each with a weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kd_offline.datasets.format.layout import described
from kd_offline.datasets.loading.cursor import Cursor
from kd_offline.datasets.loading.loader import Batch, Loader
from kd_offline.datasets.loading.sampler import BEGINNING, Position
from kd_offline.errors import MismatchError, UsageError
from kd_offline.seeding import generator
from kd_offline.types import Array, IntArray


class Mixture:
    """Endless batches with a fixed share of sequences from every dataset.

    The content of a batch is a function of the seed and the step. Each dataset contributes its
    weight times the batch size, rounded down or up at random, and goes through its own epochs. A
    mixture is one endless epoch, so a position is ``Position(0, step)``.

    Parameters
    ----------
    loaders
        Of the same environment, arrays and length of sequences; their ``batch`` does not matter.
    weights
        One for each, greater than zero; only their ratios matter.
    batch
        Sequences in a batch.

    Raises
    ------
    UsageError
        The weights are not of that kind.
    MismatchError
        The datasets do not fit each other.
    """

    def __init__(
        self, loaders: Sequence[Loader], weights: Sequence[float], batch: int, *, seed: int = 0
    ) -> None:
        weight_array = np.asarray(weights, dtype=np.float64)
        if (
            not loaders
            or len(weight_array) != len(loaders)
            or not (weight_array > 0).all()
            or batch < 1
        ):
            msg = (
                f"a mixture needs a batch of at least 1 and a weight above 0 for each of its "
                f"{len(loaders)} datasets, got {batch} and {list(weights)}"
            )
            raise UsageError(msg)
        if any(loader.world > 1 for loader in loaders):
            msg = (
                "a mixture is not divided among processes, but a loader of it has a rank: open its "
                "loaders without rank and world"
            )
            raise UsageError(msg)
        for other in loaders[1:]:
            _require_compatible(loaders[0], other)
        self.loaders = tuple(loaders)
        self.batch = batch
        self.seed = seed
        self._edges = np.concatenate([[0.0], np.cumsum(weight_array / weight_array.sum())])
        self._edges[-1] = 1.0

    def batches(
        self, start: Position = BEGINNING, *, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Yield batches without end, from step ``start.batch`` on; see :meth:`Loader.batches`."""
        if start.epoch != 0 or start.batch < 0:
            msg = f"a mixture has one endless epoch, got the position {start}: give epoch 0"
            raise UsageError(msg)
        index, count = share
        draws = generator(self.seed, "mixture")
        taken = self._counts(draws.random(start.batch)).sum(0).tolist()
        cursors = [loader.cursor(0, n) for loader, n in zip(self.loaders, taken, strict=True)]
        step = start.batch
        try:
            while True:
                sizes = self._counts(draws.random(1))[0].tolist()
                step += 1
                if (step - start.batch - 1) % count == index:
                    yield self._batch(cursors, sizes, Position(0, step))
                else:
                    for cursor, size in zip(cursors, sizes, strict=True):
                        cursor.skip(size)
        finally:
            for cursor in cursors:
                cursor.close()

    def _batch(self, cursors: list[Cursor], sizes: list[int], following: Position) -> Batch:
        parts = []
        for number, (loader, size) in enumerate(zip(self.loaders, sizes, strict=True)):
            if size:
                part = loader.finished(cursors[number].take(size), following)
                parts.append(replace(part, datasets=np.full(size, number)))
        return _concatenated(parts)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def _counts(self, draws: Array) -> IntArray:
        """Return the sequences of each dataset in the batches of ``draws`` [n], int64 [n, D]."""
        edges = np.floor(self._edges * self.batch + draws[:, None]).astype(np.int64)
        edges[:, -1] = self.batch  # rounding must not leave the batch short
        counts: IntArray = np.diff(edges, axis=1)
        return counts


def _require_compatible(one: Loader, other: Loader) -> None:
    """Refuse datasets of different environments, arrays or lengths of sequences."""
    a, b = (described(each.buffer.spec, each.columns) for each in (one, other))
    differences = [name for name in type(a).model_fields if getattr(a, name) != getattr(b, name)]
    columns_a, columns_b = one.columns, other.columns
    differences += sorted(
        name
        for name in columns_a.keys() | columns_b.keys()
        if columns_a.get(name) != columns_b.get(name)
    )
    if one.length != other.length:
        differences.append(f"length of sequences ({one.length} and {other.length})")
    if differences:
        msg = (
            f"the datasets at {one.buffer.where!r} and {other.buffer.where!r} cannot be mixed: "
            f"they differ in {', '.join(differences)}; mix datasets of one environment, with the "
            "same arrays and windows"
        )
        raise MismatchError(msg)


def _concatenated(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    fixed = {n for n, v in parts[0].arrays.items() if n.startswith("masks/") and v.ndim == 2}
    arrays = {
        name: values if name in fixed else np.concatenate([part[name] for part in parts])
        for name, values in parts[0].arrays.items()
    }
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("valid", "episodes", "first", "datasets")
    }
    return replace(parts[0], arrays=arrays, **columns)
