"""Where the dataset of a run is: as given, as the run states it, or beside the run."""

from __future__ import annotations

from pathlib import Path

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.storage.addresses import is_remote
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import MismatchError, UsageError
from kd_offline.schemas.run import RunManifest


def dataset_place(manifest: RunManifest, run: Path, given: str | Path | None) -> str:
    """Return the address of the dataset that a run was distilled from.

    Raises
    ------
    UsageError
        It is not there.
    MismatchError
        It has another id.
    """
    stated = manifest.dataset.path
    beside = [] if is_remote(stated) else [str(run.resolve().parent / Path(stated).name)]
    places = [stated, *beside] if given is None else [str(given)]
    source = next((place for place in places if open_files(place).present()), None)
    if source is None:
        msg = (
            f"the dataset {places[0]!r} of the run in {str(run)!r} is not there: "
            "pass its place with --dataset"
        )
        raise UsageError(msg)
    found = ExpertBuffer.open(source).id
    if found != manifest.dataset.id:
        msg = (
            f"the dataset at {source!r} has the id {found[:19]}, the run was distilled from "
            f"{manifest.dataset.id[:19]}: pass the right one with --dataset"
        )
        raise MismatchError(msg)
    return source
