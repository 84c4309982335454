"""A virtual merge: one dataset that lists others by their addresses, and copies none of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kd_offline.datasets.edit.lineage import check_output
from kd_offline.datasets.edit.merge import MergeOptions, merge_plan, open_parents
from kd_offline.datasets.edit.rewrite import RewritePlan, operation_of, write_plan
from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.reading.shards import MOST_NESTED, ShardedArray
from kd_offline.datasets.sharing.share import publish
from kd_offline.datasets.sharing.targets import refuse_unwritable
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.manifest_file import read_manifest
from kd_offline.datasets.storage.shard_addresses import ALLOWED, is_relative, stated_address
from kd_offline.datasets.storage.sources import open_files, require_known_scheme
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import Remedy, StorageError, UsageError
from kd_offline.files import check_output as check_file
from kd_offline.schemas.dataset import DatasetManifest, ShardRecord
from kd_offline.tracking.base import Observer, observed


def virtual_merge(
    datasets: Sequence[str | Path],
    output: str | Path,
    *,
    arrays: str = "all",
    without: Collection[str] = (),
    duplicates: str = "refuse",
    licence: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> DatasetManifest:
    """Make a dataset that reads as :func:`merge` of several, and leaves their steps where they are.

    It has the id that :func:`merge` gives, so every value is read and checked once here. What is
    written is the manifest, the episode table and the masks; the manifest is created last, and only
    where there is none. The datasets must stay as they are: each is opened when its rows are first
    needed, and refused if it is another one by then.

    Parameters
    ----------
    datasets
        Addresses of datasets, on this machine or not.
    output
        Address of the result, of any kind that :func:`~kd_offline.datasets.sharing.share.push`
        takes. Datasets below the folder in which it lies are listed by relative paths, so all of it
        can be moved together. Others are listed by absolute addresses, which readers must allow by
        the variable ``KD_OFFLINE_SHARDS``.
    arrays, without, duplicates, licence, name, overwrite, observers
        As for :func:`merge`; duplicates cannot be dropped.

    Raises
    ------
    UsageError, MismatchError, DatasetError, StorageError
        As :func:`merge`, or the output is within a dataset.
    """
    options = MergeOptions(arrays, tuple(sorted(without)), duplicates, licence)
    parents = open_parents(datasets)
    _check_output(str(output), parents)
    plan = merge_plan(parents, options, name)
    shards = _shards(plan, str(output))
    if not overwrite:
        _refuse_another(str(output), shards)
    with (
        observed(operation_of(plan.header.lineage, Path(output)), observers) as observer,
        TemporaryDirectory(prefix="kd-offline-") as scratch,
    ):
        local = Path(scratch) / "whole.zarr"
        with DatasetWriter.create(local, plan.header, shards=shards) as writer:
            manifest = write_plan(plan, writer, observer)
        publish(local, output, overwrite=overwrite)
        elsewhere = [shard.address for shard in shards if not is_relative(shard.address)]
        if elsewhere:
            observer.message(
                f"{len(elsewhere)} of the datasets lie elsewhere, such as {elsewhere[0]}: who "
                f"reads the result sets {ALLOWED} to what their addresses begin with"
            )
        observer.result = manifest
    return manifest


def _check_output(output: str, parents: Sequence[ExpertBuffer]) -> None:
    """Refuse an output within one of the parents, or that contains one."""
    if not is_remote(output) and not output.endswith(".zip"):
        check_output(output, parents)
        return
    plain = split_pin(output)[0].rstrip("/")
    for parent in parents:
        address = split_pin(parent.where)[0].rstrip("/")
        if f"{plain}/".startswith(f"{address}/") or address.startswith(f"{plain}/"):
            msg = f"{output!r} lies in the dataset {parent.where!r} or holds it: choose another"
            raise UsageError(msg)


def _refuse_another(output: str, shards: tuple[ShardRecord, ...]) -> None:
    """Refuse a place that holds another dataset, before all values are read for nothing."""
    if output.endswith(".zip") and not is_remote(output):
        check_file(Path(output).expanduser())
        return
    if require_known_scheme(output) == "hf":
        return  # it does not tell a repository that is still to be made from one that it refuses
    files = open_files(refuse_unwritable(output), cached=False)
    if files.exists(MANIFEST) and read_manifest(files).shards != shards:
        msg = f"there is another dataset at {output!r}"
        raise StorageError(msg, Remedy("choose another place"), Remedy("give", overwrite=True))


def _shards(plan: RewritePlan, output: str) -> tuple[ShardRecord, ...]:
    """Return the parts of a plan as they are listed; each must be a whole dataset."""
    records = []
    for part in plan.parts:
        parent, manifest = part.parent, part.parent.manifest
        if len(part.episodes) < parent.n_episodes:
            msg = (
                f"only some episodes of the dataset at {parent.where!r} would be taken, and a "
                "dataset can only be listed as a whole"
            )
            keep = Remedy("keep what is there twice with", duplicates="keep")
            raise UsageError(msg, keep, "merge with copying")
        array = parent.array("steps/reward")
        if isinstance(array, ShardedArray) and array.shards.levels() >= MOST_NESTED:
            msg = (
                f"the dataset at {parent.where!r} lists shards of shards already, and nobody would "
                f"read more than {MOST_NESTED} levels: merge with copying"
            )
            raise UsageError(msg)
        records.append(
            ShardRecord(
                address=stated_address(output, parent.where),
                id=manifest.id,
                manifest_digest=manifest.manifest_digest,
                episodes=parent.n_episodes,
                steps=parent.n_steps,
                bytes=manifest.size_bytes,
            )
        )
    return tuple(records)
