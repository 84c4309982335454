"""The format as docs/format.md tells it: read without kd_offline, and by its published schemas."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests.compatibility import foreign_reader

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "datasets" / "tiny-spread" / "dataset.zarr"
READER = Path(foreign_reader.__file__)


@pytest.fixture
def ragged(tmp_path):
    spec = environment_spec((6, 3, 5), (5, 2, 4), state_width=7)
    return tiny_dataset(tmp_path / "ragged.zarr", 40, spec=spec)


def assert_reads_the_same(path):
    buffer = ExpertBuffer.open(path)
    manifest, arrays = foreign_reader.read(path)
    assert manifest["id"] == buffer.id
    assert set(arrays) == set(buffer.names)
    assert all(np.array_equal(arrays[name], buffer.read(name)) for name in arrays)
    last = foreign_reader.episode(arrays, buffer.n_episodes - 1)
    assert (last["terminated"] | last["truncated"]).tolist() == [False] * (len(last["obs"]) - 1) + [
        True
    ]


def test_everything_can_be_read_and_checked_from_the_specification(ragged):
    assert_reads_the_same(ragged.path)


def test_the_published_dataset_opens_for_ever():
    assert_reads_the_same(PUBLISHED)


def test_the_reader_is_small_and_needs_nothing_of_ours():
    text = READER.read_text("utf-8")
    assert len(text.splitlines()) <= 150
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"hashlib", "json", "sys", "pathlib", "numpy", "zarr"}


def test_it_runs_on_its_own():
    done = subprocess.run(
        [sys.executable, str(READER), str(PUBLISHED)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        timeout=240,
    )
    assert done.stdout.endswith(": every digest is right\n")


@pytest.mark.parametrize("name", ["manifest.json", "steps/obs/zarr.json", "steps/logits/c/0/0/0"])
def test_it_notices_damage(ragged, name):
    file = ragged.path / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises((foreign_reader.NotTrusted, ValueError, KeyError)):
        foreign_reader.read(ragged.path)


def test_manifests_match_the_published_schema(ragged):
    schema = json.loads((ROOT / "schemas" / "dataset-1.0.schema.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in (ragged.path, PUBLISHED):
        jsonschema.validate(json.loads((path / "manifest.json").read_bytes()), schema)
    document = json.loads((PUBLISHED / "manifest.json").read_bytes())
    document["hook"] = 1
    with pytest.raises(jsonschema.ValidationError, match="hook"):
        jsonschema.validate(document, schema)
