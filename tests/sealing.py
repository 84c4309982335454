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


def resealed_tensors(file, old="", new=""):
    """Replace text in the metadata of a safetensors file."""
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    kept = {name: text for name, text in header["__metadata__"].items() if name != DIGEST}
    assert any(old in text for text in kept.values())
    changed = {name: text.replace(old, new) for name, text in kept.items()}
    file.write_bytes(with_metadata(content, changed))
