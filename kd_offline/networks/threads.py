"""Set PyTorch's number of threads for a while, and restore global random states afterwards."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Compute with ``threads`` threads of PyTorch while the body runs; None keeps their number.

    Afterwards the number of threads and the global random states of PyTorch, NumPy and Python are
    restored: PyTorch draws from its own whenever a layer is made, and environments may seed the
    others. Our own numbers never come from these generators. PyTorch is not imported here if
    ``threads`` is None and nobody imported it before.
    """
    untouched = threads is None and "torch" not in sys.modules
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - to be given back
    try:
        with nullcontext() if untouched else _torch_with(threads):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


@contextmanager
def _torch_with(threads: int | None) -> Iterator[None]:
    import torch

    former_threads, former_state = torch.get_num_threads(), torch.get_rng_state()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(former_threads)
        torch.set_rng_state(former_state)
