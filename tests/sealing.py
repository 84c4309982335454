"""Changing files that carry a digest, as whoever can write them can seal them again."""

import json

from kd_offline.networks.files import with_metadata
from kd_offline.schemas.document import DIGEST
from kd_offline.sealed_json import seal


def resealed(file, **changes):
    """Change fields of a sealed document."""
    document = json.loads(file.read_bytes())
    document.pop(DIGEST, None)
    file.write_bytes(seal(document | changes, DIGEST))


def unsealed(file, **changes):
    """Rewrite a document as an older version would have, without a digest."""
    document = json.loads(file.read_bytes())
    document.pop(DIGEST, None)
    file.write_text(json.dumps(document | changes))


def resealed_tensors(file, old=b"", new=b"", **metadata):
    """Replace bytes and entries of the metadata of a safetensors file."""
    content = file.read_bytes()
    assert old in content
    changed, size = content.replace(old, new), int.from_bytes(content[:8], "little")
    kept = json.loads(changed[8 : 8 + size])["__metadata__"] | metadata
    kept.pop(DIGEST, None)
    file.write_bytes(with_metadata(changed, kept))
