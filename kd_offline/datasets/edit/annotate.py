"""``annotate``: change name, version, description, licence or citation; the id stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from kd_offline.datasets.edit.lineage import check_output, lineage, next_version, open_parent
from kd_offline.datasets.edit.rewrite_metadata import rewrite_metadata
from kd_offline.datasets.writing.destination import check_name
from kd_offline.errors import UsageError
from kd_offline.schemas.dataset import DatasetManifest, SemanticVersion
from kd_offline.schemas.environment import Strict
from kd_offline.tracking.base import Observer


class Annotation(Strict):
    """The descriptions to change; None keeps a description."""

    name: str | None = Field(default=None, min_length=1)
    version: SemanticVersion | None = None
    description: str | None = None
    licence: str | None = None
    citation: str | None = None


def annotate(
    dataset: str | Path,
    output: str | Path,
    *,
    name: str | None = None,
    version: str | None = None,
    description: str | None = None,
    licence: str | None = None,
    citation: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> DatasetManifest:
    """Make a copy of a dataset with other descriptions; its id stays the same.

    Without ``version`` the patch number is raised. An empty text removes a description.

    Raises
    ------
    UsageError
        Nothing is given, a name of several lines, or a version that is not semantic.
    DatasetError, StorageError
        The dataset cannot be read or the result not be written.
    """
    try:
        annotation = Annotation(
            name=name,
            version=version,
            description=description,
            licence=licence,
            citation=citation,
        )
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        expected = "three numbers such as 1.2.0" if field == "version" else "at least one letter"
        msg = f"the {field} {error.errors()[0]['input']!r} is not possible: give {expected}"
        raise UsageError(msg) from None
    check_name(name)
    changes = annotation.model_dump(exclude_none=True)
    if not changes:
        msg = "nothing is to be said: give a name, version, description, licence or citation"
        raise UsageError(msg)
    parent = open_parent(dataset)
    root = check_output(output, [parent])
    facts = {"version": next_version(parent.manifest.version, "patch"), **changes}
    history = lineage("annotate", [parent], changes)
    facts |= {"lineage": [step.model_dump(mode="json") for step in history]}
    return rewrite_metadata(
        parent, root, facts, resume=resume, overwrite=overwrite, observers=observers
    )
