"""The dataset of a run: as given, as the run states it, or beside the run."""

from __future__ import annotations

from pathlib import Path

from kd_offline import code_guard
from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.storage.addresses import is_remote
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import (
    KdOfflineError,
    MismatchError,
    NotADatasetError,
    Remedy,
    UsageError,
)
from kd_offline.schemas.run import RunManifest


def open_dataset(
    manifest: RunManifest, run: Path, given: str | Path | ExpertBuffer | None
) -> ExpertBuffer:
    """Return the dataset that a run was distilled from, opened.

    What is returned is what was compared: no address is opened a second time. A server is asked
    only where the user gave its address, since a run may come from anyone.

    Raises
    ------
    UsageError
        It is not there, or the run states the address of a server and none was given.
    MismatchError
        It has another id.
    """
    if isinstance(given, ExpertBuffer):
        return _checked(given, manifest)
    if given is None:
        stated = manifest.dataset.path
        asker = f"the run in {str(run)!r}"
        code_guard.check_address(stated, asked_by=asker, argument="dataset")
        places = [stated, str(run.resolve().parent / Path(stated).name)]
    else:
        places = [str(given)]
    for place in places:
        if is_remote(place) or open_files(place).present():
            return _checked(ExpertBuffer.open(place), manifest)
    msg = f"the dataset {places[0]!r} of the run in {str(run)!r} is not there"
    raise UsageError(msg, Remedy("pass its place as", dataset=...))


def why_unread(error: KdOfflineError) -> str:
    """Return why a report does without the run's dataset, without places of this machine."""
    if isinstance(error, MismatchError):
        return "another dataset lies where the run states its own"
    if isinstance(error, UsageError | NotADatasetError):
        return "the dataset is neither where the run states it nor beside the run"
    return "the dataset cannot be read, and verifying it tells why"


def _checked(buffer: ExpertBuffer, manifest: RunManifest) -> ExpertBuffer:
    if buffer.id != manifest.dataset.id:
        msg = (
            f"the dataset at {buffer.where!r} has the id {buffer.id[:19]}, the run was distilled "
            f"from {manifest.dataset.id[:19]}"
        )
        raise MismatchError(msg, Remedy("pass the right one as", dataset=...))
    return buffer
