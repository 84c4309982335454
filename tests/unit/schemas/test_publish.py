import json
from pathlib import Path

import jsonschema
import pytest

from kd_offline.errors import UnknownNameError
from kd_offline.schemas import publish
from kd_offline.testing.factories import environment_spec, tiny_dataset

FOLDER = Path(__file__).parents[3] / "schemas"


def test_published_schemas_are_in_step():
    assert publish.stale(FOLDER) == []


@pytest.mark.parametrize("name", list(publish.MODELS))
def test_published_schemas_are_schemas(name):
    schema = publish.json_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:kd-offline:schema:{name}-{publish.VERSIONS[name]}"


def test_unknown_document():
    with pytest.raises(UnknownNameError, match="did you mean 'dataset'"):
        publish.schema_text("datasets")


def _validator(name: str) -> jsonschema.Draft202012Validator:
    text = (FOLDER / publish.file_name(name)).read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


def test_a_real_manifest_is_valid(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr", spec=environment_spec((4, 2), state_width=3))
    document = json.loads((buffer.path / "manifest.json").read_text())
    _validator("dataset").validate(document)
    assert document["environment"].pop("context").startswith("sha256:")
    _validator("environment").validate(document["environment"])
    document["files"][0]["path"] = "../outside"
    with pytest.raises(jsonschema.ValidationError):
        _validator("dataset").validate(document)


def test_checking_and_writing(tmp_path, capsys):
    folder = str(tmp_path / "schemas")
    assert publish.main(["--check", folder]) == 1
    assert "environment-1.0.schema.json" in capsys.readouterr().err
    assert publish.main(["--write", folder]) == 0
    assert publish.main(["--check", folder]) == 0
    (tmp_path / "schemas" / "gone-1.0.schema.json").write_text("{}")
    assert publish.main(["--check", folder]) == 1
