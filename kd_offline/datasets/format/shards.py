"""Shards of a recording: which episodes each holds, and how its manifest states that.

A shard is a dataset of its own. Its place is the first record of its lineage, which no digest
covers, so neither its id nor that of the whole recording depends on how it was divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kd_offline.errors import CorruptDatasetError, Remedy, UsageError
from kd_offline.schemas.dataset import DatasetManifest, LineageRecord
from kd_offline.schemas.record_recipe import shard_place

OPERATION = "record"
# Operations after which a shard still holds the same episodes.
_KEEP_EPISODES = frozenset({"annotate", "arrays", "relabel-masks"})
_SHOWN_RANGES = 12


@dataclass(frozen=True, slots=True)
class Shard:
    """Episodes ``first`` to ``stop`` of a recording of ``whole`` episodes, one of ``of`` shares.

    ``number`` counts from 1.
    """

    number: int
    of: int
    first: int
    stop: int
    whole: int

    @property
    def place(self) -> str:
        """Number and count as a user writes them, such as ``3/64``."""
        return f"{self.number}/{self.of}"

    def record(self) -> LineageRecord:
        """Return the record of the lineage by which a manifest states this place."""
        arguments = {"shard": self.place, "first_episode": self.first, "whole": self.whole}
        return LineageRecord(operation=OPERATION, parents=(), arguments=dict(arguments))


def share(place: str, episodes: int, batch: int) -> Shard:
    """Return the share of a shard: whole batches, as evenly as they go.

    The last bits of a policy's outputs depend on which episodes are played at once, so a shard
    plays the same batches as the undivided recording.

    Raises
    ------
    UsageError
        There are fewer batches than shards.
    """
    number, of = shard_place(place)
    batches = -(-episodes // batch)
    if batches < of:
        msg = (
            f"{episodes:,} episodes in batches of {batch:,} cannot be divided into {of:,} shards, "
            f"because a shard holds whole batches and there are {batches:,}"
        )
        smaller = Remedy("give every shard", batch=episodes // of) if episodes >= of else None
        fewer = Remedy(f"divide it into {batches:,} or fewer")
        raise UsageError(msg, *([smaller] if smaller else []), fewer)
    first, stop = (batch * (k * batches // of) for k in (number - 1, number))
    return Shard(number, of, first, min(stop, episodes), episodes)


def shard_of(address: str, manifest: DatasetManifest) -> Shard | None:
    """Return the place that a manifest states; None if it is no shard, or no longer one.

    Raises
    ------
    CorruptDatasetError
        It states an impossible place.
    """
    record, *edits = manifest.lineage or (None,)
    if record is None or record.operation != OPERATION or "shard" not in record.arguments:
        return None
    if any(edit.operation not in _KEEP_EPISODES for edit in edits):
        return None
    place, first, whole = (record.arguments.get(key) for key in ("shard", "first_episode", "whole"))
    stop = first + manifest.statistics.episodes if type(first) is int else -1
    try:
        number, of = shard_place(str(place))
    except ValueError:
        number, of = 0, 0
    if not of or type(first) is not int or type(whole) is not int or not 0 <= first < stop <= whole:
        msg = (
            f"the dataset at {address!r} states an impossible place in its recording: record this "
            "shard again"
        )
        raise CorruptDatasetError(msg)
    return Shard(number, of, first, stop, whole)


def listed(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text, consecutive ones as a range: ``1, 3 to 7``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    shown = [" to ".join(map(str, r)) for r in ranges[:_SHOWN_RANGES]]
    rest = "" if len(ranges) <= _SHOWN_RANGES else " and others"
    return ", ".join(shown) + rest
