"""Records of arrays as rows of 32-bit words: one array to move between a batch and compiled code.

A game is a dozen small arrays. Gathering, passing and scattering each of them costs more than a
step of the game, so all of them travel in one array, bits unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_offline.types import Array

Tree = Any  # nested records of arrays


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the arrays of a record lie in its row; ``tree`` has their shapes and types."""

    tree: Tree
    starts: tuple[int, ...]
    width: int

    @classmethod
    def of(cls, tree: Tree) -> Layout:
        """Return the layout of records like ``tree``, arrays or their shapes."""
        sizes = [int(np.prod(leaf.shape, dtype=int)) for leaf in jax.tree.leaves(tree)]
        *starts, width = np.cumsum([0, *sizes]).tolist()
        return cls(tree, tuple(starts), width)

    def pack(self, record: Tree) -> Any:
        """Return one record as words, uint32 [width]; for code that is compiled."""
        return jnp.concatenate([_to_words(leaf) for leaf in jax.tree.leaves(record)])

    def unpack(self, words: Any) -> Tree:
        """Return the record in ``words`` [width]; for code that is compiled."""
        leaves, structure = jax.tree.flatten(self.tree)
        parts = [
            _from_words(words[start : start + int(np.prod(leaf.shape, dtype=int))], leaf)
            for start, leaf in zip(self.starts, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, parts)

    def read(self, rows: Array) -> Tree:
        """Return the records in ``rows``, uint32 [B, width], as fresh NumPy arrays [B, ...]."""
        leaves, structure = jax.tree.flatten(self.tree)
        parts = [
            _read(rows[:, start : start + int(np.prod(leaf.shape, dtype=int))], leaf)
            for start, leaf in zip(self.starts, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, parts)


def _to_words(leaf: Any) -> Any:
    kind = jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.int32
    if leaf.dtype == jnp.uint32:
        return leaf.reshape(-1)
    return jax.lax.bitcast_convert_type(leaf.astype(kind), jnp.uint32).reshape(-1)


def _from_words(words: Any, like: Any) -> Any:
    words = words.reshape(like.shape)
    if like.dtype == jnp.uint32:
        return words
    kind = jnp.float32 if jnp.issubdtype(like.dtype, jnp.floating) else jnp.int32
    return jax.lax.bitcast_convert_type(words, kind).astype(like.dtype)


def _read(words: Array, like: Any) -> Array:
    kind = np.float32 if np.issubdtype(like.dtype, np.floating) else np.int32
    kept = kind if kind is np.float32 else like.dtype
    return np.array(words.view(kind), kept).reshape(len(words), *like.shape)
