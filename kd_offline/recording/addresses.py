"""Recordings to an address: written to a local folder, and sent when they are complete."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.sharing.share import default_output, push
from kd_offline.datasets.sharing.targets import refuse_unwritable
from kd_offline.datasets.storage.addresses import scheme_of
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.writing.writer import finished_dataset
from kd_offline.errors import DatasetError, Remedy, StorageError, UsageError
from kd_offline.execution.parts import is_begun, unfinished_work
from kd_offline.recording.setup import RecordingSetup
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.schemas.record_recipe import RecordRecipe
from kd_offline.tracking.base import SILENT, Observer


def staging(address: str) -> Path:
    """Return the folder in which a recording for ``address`` lies until it is sent.

    It is another one for every address, also where their last parts are the same.
    """
    digits = hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:8]
    return Path(f"{default_output(address).name}.{digits}.unsent").absolute()


def record_away(
    recipe: RecordRecipe,
    address: str,
    record: Callable[[RecordRecipe, Path], DatasetManifest],
    *,
    resume: bool,
    overwrite: bool,
    observers: Sequence[Observer],
) -> DatasetManifest:
    """Record into :func:`staging`, send what is complete to ``address``, and delete it here.

    Parameters
    ----------
    recipe, address, resume, overwrite, observers
        As for :func:`~kd_offline.recording.record.record`.
    record
        Records into a folder.

    Raises
    ------
    UsageError
        Nothing can be written to such an address, or it is a recording of several experts.
    StorageError
        A dataset is there, or the place cannot be reached. If another one was finished there
        meanwhile, the recording stays in its folder.
    """
    refuse_unwritable(address)
    _refuse_place(address, finished=not resume and not overwrite)
    if len(recipe.expert) > 1:
        msg = f"a recording of several experts is not sent to {address!r}: record into a folder"
        raise UsageError(msg, "and push it")
    local = staging(address)
    if is_begun(local) and not resume and not overwrite:
        msg = f"a recording for {address!r} was begun, or not sent, in {str(local)!r}"
        go_on = Remedy("go on with", resume=True)
        raise StorageError(msg, go_on, Remedy("replace it with", overwrite=True))
    if resume and not is_begun(local) and (done := _sent(recipe, address)):
        return done
    with unfinished_work(local, "recording or sending"):
        manifest = record(recipe, local)
        try:
            push(local, address, overwrite=overwrite, observers=observers)
        except (StorageError, DatasetError) as error:
            msg = f"{error.facts}; the recording is complete in {str(local)!r}"
            others = [_without_recording_again(each, local, address) for each in error.remedies]
            raise StorageError(msg, *others) from error
    return manifest


def _refuse_place(address: str, *, finished: bool) -> None:
    """Refuse, before anything is recorded, a place that cannot be reached.

    ``finished``: also one that holds a dataset.
    """
    files = open_files(address, cached=False)
    if scheme_of(address) == "hf":
        return  # it does not tell a repository that is still to be made from one that it refuses
    try:
        files.read(MANIFEST)  # asking for its size would not tell that there is no such bucket
    except FileNotFoundError:
        return
    if finished:
        msg = f"there is a finished dataset at {address!r}"
        raise StorageError(msg, Remedy("choose another place"), Remedy("give", overwrite=True))


def _without_recording_again(remedy: Remedy, local: Path, address: str) -> Remedy:
    """Return a remedy of ``push`` for whoever recorded: to overwrite would mean to record again."""
    if "overwrite" not in remedy.arguments:
        return remedy
    sent = {"dataset": str(local), "destination": address} | remedy.arguments
    return Remedy(remedy.before, remedy.after, operation="push", **sent)


def _sent(recipe: RecordRecipe, address: str) -> DatasetManifest | None:
    """Return the manifest of the finished recording at ``address``, None if there is none."""
    with ExitStack() as stack:
        setup = RecordingSetup(recipe, stack)
        header = setup.load_expert(SILENT)
        return finished_dataset(address, header, len(setup.seeds))
