"""How many threads PyTorch computes with, and the caller's process as it was before."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Compute with ``threads`` threads of PyTorch for a while; None: with as many as it has.

    Afterwards the number of threads is that of before, and so are the global random generators of
    PyTorch, NumPy and Python: PyTorch draws from its own whenever a layer is made, and environments
    may seed the others. No number of ours comes from them. Where no number is asked for and PyTorch
    was not imported, it is left alone: it may not be installed.
    """
    untouched = threads is None and "torch" not in sys.modules
    plain, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - to be given back
    try:
        with nullcontext() if untouched else _torch_with(threads):
            yield
    finally:
        np.random.set_state(legacy)  # noqa: NPY002
        random.setstate(plain)


@contextmanager
def _torch_with(threads: int | None) -> Iterator[None]:
    import torch

    number, drawn = torch.get_num_threads(), torch.get_rng_state()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(number)
        torch.set_rng_state(drawn)
