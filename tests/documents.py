"""Check documents against their published schemas."""

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from kd_offline.schemas.publish import schema_text


def check_document(document: Any, name: str) -> None:
    """Raise ``jsonschema.ValidationError`` unless a document follows the schema of this name."""
    _validator(name).validate(document)


@cache
def _validator(name: str) -> Draft202012Validator:
    # That the schema itself is valid is tested in tests/unit/schemas/test_publish.py.
    return Draft202012Validator(json.loads(schema_text(name)))
