"""An expert that learned some sides of a task, in one team with whoever played the others."""

from __future__ import annotations

import numpy as np

from kd_offline.errors import MismatchError
from kd_offline.types import Array, BoolArray, PolicyOutput


def joined(own: PolicyOutput, others: PolicyOutput, learned: BoolArray) -> PolicyOutput:
    """Return what a team says whose agents ``learned`` (bool [N]) are ``own`` and the rest others.

    Embeddings are padded with zeros to the wider of the two; what only one of them says is left
    out.

    Raises
    ------
    MismatchError
        One acts by Q-values, the other does not: no array could hold what both say.
    """
    if (own.q_values is None) != (others.q_values is None):
        msg = (
            "an expert with Q-values and one with logits cannot be recorded as one team: "
            "train all sides by algorithms of one kind"
        )
        raise MismatchError(msg)

    def either(mine: Array | None, theirs: Array | None) -> Array | None:
        if mine is None or theirs is None:
            return None
        chosen = learned.reshape(-1, *[1] * (mine.ndim - 2))
        width = max(mine.shape[-1], theirs.shape[-1])
        if mine.ndim == 3:
            mine, theirs = (_padded(x, width) for x in (mine, theirs))
        return np.where(chosen, mine, theirs)

    logits = either(own.logits, others.logits)
    assert logits is not None  # noqa: S101 - every policy has logits
    return PolicyOutput(
        logits=logits,
        embedding=either(own.embedding, others.embedding),
        value=either(own.value, others.value),
        q_values=either(own.q_values, others.q_values),
    )


def _padded(values: Array, width: int) -> Array:
    return np.pad(values, ((0, 0), (0, 0), (0, width - values.shape[-1])))
