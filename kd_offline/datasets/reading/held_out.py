"""The held-out episodes that students are judged by, checked to contain no training episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_offline.datasets.format.splits import IDENTITY, first_equal_row
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import DatasetError, UsageError
from kd_offline.types import IntArray

HELD_OUT = "heldout"
"""Default part that students are judged by."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A part of a dataset without training episodes."""

    part: str
    episodes: IntArray  # [E], at least one, ascending


def held_out(buffer: ExpertBuffer, part: str | None = None) -> HeldOut | None:
    """Return the episodes to judge students by, or None if the dataset holds out none.

    Parameters
    ----------
    buffer : ExpertBuffer
    part : str, optional
        Name of the part. Default: ``heldout``, where the dataset has episodes in it.

    Raises
    ------
    UsageError
        The named part is the one that is trained on, or holds no episode.
    DatasetError
        An episode of the part is one of the training episodes again.
    """
    splits = buffer.manifest.splits
    name = HELD_OUT if part is None else part
    chosen = buffer.split(name) if name in splits and name != "train" else np.zeros(0, np.int64)
    if not len(chosen):
        if part is None:
            return None
        raise UsageError(_no_such_part(buffer, part))
    _refuse_training_episodes(buffer, name, chosen)
    return HeldOut(name, chosen)


def _no_such_part(buffer: ExpertBuffer, part: str) -> str:
    allowed = [name for name, one in buffer.manifest.splits.items() if one.episodes]
    allowed = [name for name in allowed if name != "train"]
    why = "is what students are trained on" if part == "train" else "holds no episode"
    what = (
        f"give one of {', '.join(allowed)}"
        if allowed
        else "no part is held out, so make one with kd-offline split"
    )
    return (
        f"students cannot be judged by the part {part!r} of {buffer.where!r}, which {why}: {what}"
    )


def _refuse_training_episodes(buffer: ExpertBuffer, part: str, held_out_episodes: IntArray) -> None:
    """Refuse a part with a training episode in it: one of the same seed, expert and noise level."""
    train = buffer.split("train") if "train" in buffer.manifest.splits else held_out_episodes[:0]
    rows = np.concatenate([train, held_out_episodes])
    names = [name for name in IDENTITY if buffer.has(f"episodes/{name}")]
    columns = [buffer.episodes(name)[rows] for name in names] if "seed" in names else [rows]
    repeated = int((first_equal_row(*columns)[len(train) :] < len(train)).sum())
    if repeated:
        msg = (
            f"{repeated} of the {len(held_out_episodes)} episodes in the part {part!r} of "
            f"{buffer.where!r} are training episodes again (same seed, expert and noise level), "
            "so they are not held out: deal the episodes out anew with kd-offline split"
        )
        raise DatasetError(msg)
