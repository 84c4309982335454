"""Batches as PyTorch tensors, directly or through a ``DataLoader`` with workers.

The tensors share the memory of the batch's arrays; nothing is copied in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kd_offline.datasets.loading.loader import Batch, Loader
from kd_offline.datasets.loading.sampler import BEGINNING, Position


class Batches(Protocol):
    """An object that yields batches: a :class:`Loader` or a :class:`Mixture`."""

    def batches(self, start: Position, *, share: tuple[int, int]) -> Iterator[Batch]:
        """Yield batches from ``start`` on; ``share`` (i, n): every n-th, from the i-th on."""
        ...


@dataclass(frozen=True, slots=True)
class TensorBatch:
    """A :class:`Batch` of tensors."""

    arrays: dict[str, Tensor]
    valid: Tensor  # bool [B, L]
    episodes: Tensor  # int64 [B]
    first: Tensor  # int64 [B]
    following: Position
    datasets: Tensor | None = None  # int64 [B]
    sequences_of_all: int | None = None  # of the global batch; None: these are all

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(self.valid)

    def pin_memory(self) -> TensorBatch:
        """Return the batch in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str) -> TensorBatch:
        """Return the batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> TensorBatch:
        arrays = {name: change(values) for name, values in self.arrays.items()}
        return TensorBatch(
            arrays,
            change(self.valid),
            change(self.episodes),
            change(self.first),
            self.following,
            None if self.datasets is None else change(self.datasets),
            self.sequences_of_all,
        )


def tensors(batch: Batch) -> TensorBatch:
    """Return a batch as tensors that share its memory."""
    return TensorBatch(
        {name: torch.from_numpy(values) for name, values in batch.arrays.items()},
        torch.from_numpy(batch.valid),
        torch.from_numpy(batch.episodes),
        torch.from_numpy(batch.first),
        batch.following,
        None if batch.datasets is None else torch.from_numpy(batch.datasets),
        batch.sequences_of_all,
    )


class TensorBatches(IterableDataset[TensorBatch]):
    """An iterable of tensor batches from ``start`` on, for ``DataLoader(..., batch_size=None)``.

    Of n workers each takes every n-th batch. So the same batches come in the same order for any
    number of workers, and ``following`` resumes with any number. Datasets in memory are shared
    with forked workers. A streamed dataset is decoded by every worker, each within the whole
    budget; threads decode as well, so one worker is enough.

    Parameters
    ----------
    source : Loader or Mixture
    start : Position
    epochs : int, optional
        How many epochs an iteration yields; None for ever. Not for mixtures.
    """

    def __init__(
        self, source: Batches, start: Position = BEGINNING, *, epochs: int | None = None
    ) -> None:
        self.source = source
        self.start = start
        self.epochs = epochs

    def __iter__(self) -> Iterator[TensorBatch]:
        worker = get_worker_info()
        share = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if isinstance(self.source, Loader):
            stream = self.source.batches(self.start, epochs=self.epochs, share=share)
        else:
            stream = self.source.batches(self.start, share=share)
        return map(tensors, stream)


def data_loader(
    source: Batches,
    start: Position = BEGINNING,
    *,
    epochs: int | None = None,
    workers: int = 0,
    **options: Any,
) -> DataLoader[TensorBatch]:
    """Return a ``DataLoader`` of ready-made batches; ``options`` are passed to it."""
    dataset = TensorBatches(source, start, epochs=epochs)
    return DataLoader(dataset, batch_size=None, num_workers=workers, **options)
