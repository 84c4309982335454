"""How many weights of each matrix of a sparse network are stored; without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from kd_offline.errors import UsageError
from kd_offline.schemas.layers import SparseMatrices
from kd_offline.schemas.recipes import Sparsity


def sparse_matrices(sizes: Sequence[tuple[int, int]], settings: Sparsity) -> SparseMatrices:
    """Return the numbers of blocks that are stored of matrices of ``(rows, columns)``.

    Together they hold a share of about ``1 - target`` of all weights. With ``erk`` the density of a
    matrix is proportional to ``(rows + columns) / (rows columns)`` (Erdos-Renyi: Mocanu et al.,
    2018; Evci et al., 2020), with ``uniform`` it is the same for all. A matrix whose density would
    be above 1 is full, and so is one whose rows do not divide into blocks; the others are the
    sparser for it. At least one block of a matrix is stored.

    Raises
    ------
    UsageError
        The matrices that have to be full hold more weights than there may be.
    """
    block = settings.block
    weights = [rows * columns for rows, columns in sizes]
    sparse = {k for k, (rows, columns) in enumerate(sizes) if rows % block == 0 and columns}
    allowed = (1 - settings.target) * sum(weights)
    erk = settings.densities == "erk"
    shares = [sum(size) / max(n, 1) if erk else 1.0 for size, n in zip(sizes, weights, strict=True)]
    while True:
        left = allowed - sum(n for k, n in enumerate(weights) if k not in sparse)
        if left <= 0 or not sparse:
            raise UsageError(_too_few(settings, sum(weights)))
        scale = left / sum(shares[k] * weights[k] for k in sparse)
        full = {k for k in sparse if scale * shares[k] >= 1}
        if not full:
            break
        sparse -= full
    kept = (
        max(1, round(scale * shares[k] * n / block)) if k in sparse else None
        for k, n in enumerate(weights)
    )
    return SparseMatrices(block=block, kept=tuple(kept))


def _too_few(settings: Sparsity, weights: int) -> str:
    blocks = "" if settings.block == 1 else f", or hidden widths that {settings.block} divides"
    return (
        f"students of {weights:,} weights cannot have {settings.target:.0%} zeros in blocks of "
        f"{settings.block}: choose a smaller sparsity.target{blocks}"
    )
