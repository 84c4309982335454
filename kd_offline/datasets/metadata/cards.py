"""``card``: a page about a dataset in Markdown, with the header that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kd_offline.datasets.metadata.card_sections import sections
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.files import check_output, write_output

# The Hub's identifiers of licences, https://huggingface.co/docs/hub/repositories-licenses: SPDX in
# small letters for these; any other is given by name.
_LICENCES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "isc", "zlib", "unlicense"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "pddl", "odc-by", "odbl"),
    "cdla-permissive-2.0",
}
_SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9, 10**10, 10**11, 10**12)


def card(
    dataset: ExpertBuffer | str | Path,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
) -> str:
    """Return a dataset card in Markdown, and write it to ``output`` if that is given.

    Raises
    ------
    DatasetError
        The dataset cannot be read.
    StorageError
        There is a file at ``output`` already, or it cannot be written.
    """
    target = None if output is None else Path(output).expanduser()
    if target is not None:
        check_output(target, overwrite=overwrite)
    buffer = dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)
    text = render(buffer)
    if target is not None:
        write_output(target, text, overwrite=overwrite)
    return text


def render(buffer: ExpertBuffer) -> str:
    """Return the card of an open dataset."""
    return "\n\n".join([_header(buffer), *sections(buffer)]) + "\n"


def metadata(buffer: ExpertBuffer) -> dict[str, Any]:
    """Return the header's fields, as the Hub names them."""
    manifest = buffer.manifest
    size = next((k for k, most in enumerate(_SIZES) if buffer.n_steps < most), len(_SIZES))
    licence = manifest.licence.strip()
    named = licence.lower() in _LICENCES
    fields: dict[str, Any] = {
        "pretty_name": manifest.name,
        "license": licence.lower() if named else "other" if licence else "unknown",
        "task_categories": ["reinforcement-learning"],
        "size_categories": [_size_category(size)],
        "tags": ["kd-offline", "multi-agent", "offline-rl", "knowledge-distillation", "zarr"],
    }
    fields["tags"].append(buffer.spec.id)
    return fields | ({"license_name": licence} if licence and not named else {})


def _size_category(size: int) -> str:
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    if size == 0:
        return "n<1K"
    return "n>1T" if size == len(names) else f"{names[size - 1]}<n<{names[size]}"


def _header(buffer: ExpertBuffer) -> str:
    """Return the header in YAML: every value as JSON, which YAML includes."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in metadata(buffer).items()]
    return "\n".join(["---", *lines, "---"])
