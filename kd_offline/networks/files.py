"""Read and write safetensors files that carry the digest of their content.

The digest is an entry of the file's metadata. It covers all other metadata, and the name, type,
shape and bytes of every tensor. PyTorch is imported only when tensors are asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, deserialize

from kd_offline.errors import CheckpointError, KdOfflineError, UnsealedWarning
from kd_offline.files import read_file, write_file
from kd_offline.schemas.document import DIGEST
from kd_offline.sealed_json import canonical_json, digest
from kd_offline.strict_json import parse

if TYPE_CHECKING:
    from torch import Tensor

MAX_TENSOR_BYTES = 64 << 30
_METADATA = "__metadata__"
_ALIGNMENT = 8  # bytes; safetensors pads the header to a multiple of it


class Entry(NamedTuple):
    """Type, shape and bytes of one tensor in a file."""

    dtype: str
    shape: tuple[int, ...]
    values: memoryview


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A checked safetensors file: its metadata without the digest, and its tensors by name."""

    path: Path
    metadata: dict[str, str]
    entries: dict[str, Entry]
    content: bytes
    sealed: bool  # whether it carried its digest

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        from safetensors.torch import load

        return load(self.content)

    def weights_digest(self, prefix: str = "") -> str:
        """Return :func:`weights_digest` of the tensors whose names start with ``prefix``."""
        entries = {
            n.removeprefix(prefix): e for n, e in self.entries.items() if n.startswith(prefix)
        }
        return weights_digest({name: (e.shape, e.values) for name, e in entries.items()})

    def check_shapes(
        self,
        stated_widths: Iterable[int | None],
        state: Callable[[], Mapping[str, Tensor]],
        prefix: str = "",
        *,
        remedy: str,
    ) -> None:
        """Raise a ``CheckpointError`` unless names and shapes are those that the card implies.

        Parameters
        ----------
        stated_widths
            All widths that the card states. A width above the number of values in the file is
            refused before anything is built.
        state
            Builds the network of the card and returns its state dict. It is called on PyTorch's
            device ``meta``, so no memory is allocated.
        prefix
            Prefix of the names of the tensors that are compared.
        remedy
            What the user can do, for the message.

        Raises
        ------
        CheckpointError
            The message names the first difference.
        """
        import torch

        numbers = sum(math.prod(entry.shape) for entry in self.entries.values())
        largest = max((width for width in stated_widths if width is not None), default=0)
        if largest > numbers:
            msg = (
                f"the card of {str(self.path)!r} states a width of {largest:,}, and the file holds "
                f"{numbers:,} numbers: it was damaged or altered; {remedy}"
            )
            raise CheckpointError(msg)
        try:
            with torch.device("meta"):
                expected = {name: tuple(value.shape) for name, value in state().items()}
        except (RuntimeError, ValueError, TypeError, OverflowError, ArithmeticError) as error:
            if isinstance(error, KdOfflineError):
                raise
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            msg = f"the card of {str(self.path)!r} describes no network ({reason}); {remedy}"
            raise CheckpointError(msg) from error
        actual = {
            name.removeprefix(prefix): entry.shape
            for name, entry in self.entries.items()
            if name.startswith(prefix)
        }
        for name in [*expected, *actual]:
            if expected.get(name) != actual.get(name):
                expected_shape, actual_shape = (
                    _shape(table.get(name)) for table in (expected, actual)
                )
                msg = (
                    f"the weights in {str(self.path)!r} do not have the shapes that their card "
                    f"states ({name} is {actual_shape} and should be {expected_shape}); {remedy}"
                )
                raise CheckpointError(msg)


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    sealed: bool = True,
) -> None:
    """Replace the file at ``path`` by one with these tensors; raises as :func:`write_file`.

    The same tensors and metadata always give the same bytes. ``sealed=False`` leaves the digest
    out, for files whose digest another file states.
    """
    from safetensors.torch import save

    data = save({name: value.contiguous() for name, value in tensors.items()})
    write_file(path, with_metadata(data, metadata or {}) if sealed else data)


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file with this metadata and the digest of its content."""
    header, body = _split(data)
    header.pop(_METADATA, None)
    sealed = {**metadata, DIGEST: _digest(header, metadata, body)}
    text = json.dumps(
        {_METADATA: dict(sorted(sealed.items())), **header}, separators=(",", ":")
    ).encode("ascii")
    text = text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, body])


def read_tensors(
    path: Path, remedy: str, *, of_file: str | None = None, required: bool = True
) -> TensorFile:
    """Read a safetensors file and check its digest.

    Parameters
    ----------
    path : path
    remedy
        What the user can do about a damaged file, such as ``distil them again``.
    of_file
        ``sha256:<hex>`` of the whole file, where another document states it. The metadata then
        need no digest.
    required
        Whether the metadata must hold the digest. If not, a file without one is accepted, as
        older versions wrote them.

    Raises
    ------
    StorageError
        There is no plain file.
    CheckpointError
        It is no safetensors file, or its bytes were altered.
    """
    content = read_file(path, MAX_TENSOR_BYTES)
    if of_file is not None and digest(content) != of_file:
        msg = (
            f"{str(path)!r} does not have the digest that is stated for it: it was damaged or "
            f"exchanged; {remedy}"
        )
        raise CheckpointError(msg)
    return parse_tensors(content, path, remedy, required=required and of_file is None)


def parse_tensors(content: bytes, path: Path, remedy: str, *, required: bool) -> TensorFile:
    """Return the checked content of a safetensors file; raises as :func:`read_tensors` does."""
    try:
        header, body = _split(content)
        deserialize(content)  # type: ignore[no-untyped-call]
        metadata = header.pop(_METADATA, None) or {}
    except (SafetensorError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0][:200]
        msg = f"{str(path)!r} is damaged: it is no safetensors file ({reason}); {remedy}"
        raise CheckpointError(msg) from None
    stated = metadata.pop(DIGEST, None)
    if stated is None and required:
        msg = f"{str(path)!r} is damaged: its metadata does not hold its digest; {remedy}"
        raise CheckpointError(msg)
    if stated is not None and stated != _digest(header, metadata, body):
        msg = f"{str(path)!r} does not match its own digest: it was damaged; {remedy}"
        raise CheckpointError(msg)
    entries = {
        name: Entry(e["dtype"], tuple(e["shape"]), body[slice(*e["data_offsets"])])
        for name, e in header.items()
    }
    return TensorFile(path, metadata, entries, content, stated is not None)


def warn_unsealed(path: Path, remedy: str) -> None:
    """Warn that a file of an older version has no digest, so damage to it is not noticed."""
    msg = (
        f"{str(path)!r} was written before such files had digests, so damage to it is not "
        f"noticed: {remedy} to give it one"
    )
    warnings.warn(msg, UnsealedWarning, stacklevel=3)


def weights_digest(weights: Mapping[str, tuple[tuple[int, ...], bytes | memoryview]]) -> str:
    """Return a digest of names, shapes and bytes of weights, independent of the file format."""
    sha = hashlib.sha256()
    for name, (shape, values) in sorted(weights.items()):
        sha.update(json.dumps([name, list(shape)]).encode())
        sha.update(values)
    return "sha256:" + sha.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return :func:`weights_digest` of tensors in memory."""
    return weights_digest(
        {
            name: (tuple(value.shape), value.detach().contiguous().numpy().tobytes())
            for name, value in tensors.items()
        }
    )


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return the header of a safetensors file and the bytes that its offsets refer to."""
    size = int.from_bytes(data[:8], "little")
    header = parse(data[8 : 8 + size].rstrip(b" "), utf8=True)
    if not isinstance(header, dict):
        msg = "its header is no JSON object"
        raise ValueError(msg)  # noqa: TRY004 - it is the file that is wrong, as in all cases here
    return header, memoryview(data)[8 + size :]


def _digest(header: Mapping[str, Any], metadata: Mapping[str, str], body: memoryview) -> str:
    tensors = {
        name: [e["dtype"], e["shape"], digest(body[slice(*e["data_offsets"])])]
        for name, e in header.items()
    }
    return digest(canonical_json({"metadata": dict(metadata), "tensors": tensors}))


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
