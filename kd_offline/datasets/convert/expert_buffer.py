"""Write imported datasets as expert buffers."""

from __future__ import annotations

from pathlib import Path

from kd_offline.datasets.convert.embedded_manifest import check_round_trip
from kd_offline.datasets.convert.interchange import ImportedDataset, foreign_error
from kd_offline.datasets.format.layout import FORMAT_VERSION, MANIFEST
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import UsageError
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.tracking.base import Observer


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is a folder with the manifest of an expert buffer."""
    return (path / MANIFEST).is_file()


def write_imported(
    imported: ImportedDataset, path: Path, where: str, observer: Observer
) -> tuple[DatasetManifest, list[str]]:
    """Write an imported dataset; return its manifest and notes for the user.

    Raises
    ------
    CorruptDatasetError
        The source carries the manifest of the dataset it was made from, and is not the same.
    ForeignError
        The source holds values that an expert buffer may not.
    """
    done = 0
    try:
        with DatasetWriter.create(path, imported.header) as writer:
            for block in imported.blocks:
                writer.append(block)
                done += int(block.lengths.sum())
                observer.progress(done, imported.steps, "steps")
            before = imported.manifest
            manifest = writer.commit(
                imported.masks,
                seconds=before.recording.seconds if before else None,
                splits=imported.splits,
                version=min(before.format_version, FORMAT_VERSION) if before else None,
            )
    except UsageError as error:  # the values come from the source, not from the user
        raise foreign_error(Path(where), str(error)) from error
    notes = check_round_trip(imported.manifest, manifest, where) if imported.manifest else []
    return manifest, notes
