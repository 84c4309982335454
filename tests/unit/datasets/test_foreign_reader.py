"""The format as docs/format.md tells it: read and checked without a line of kd_offline."""

import hashlib
import json
from pathlib import Path

import numpy as np
import zarr


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def read(root: Path):
    """Return manifest and arrays of a dataset, checking every digest on the way."""
    text = (root / "manifest.json").read_bytes()
    manifest = json.loads(text)
    ending = f',\n "manifest_digest": "{manifest["manifest_digest"]}"\n}}\n'.encode()
    assert text.endswith(ending)
    assert manifest["manifest_digest"] == f"sha256:{sha256(text.removesuffix(ending))}"
    assert manifest["format_version"][0] == 1
    for file in manifest["files"]:
        data = (root / file["path"]).read_bytes()
        assert (len(data), sha256(data)) == (file["size"], file["sha256"])
    arrays = {}
    group = zarr.open_group(root, mode="r", zarr_format=3)
    for name, spec in manifest["arrays"].items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        values = np.ascontiguousarray(array[:])
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
        header = {"dtype": spec["dtype"], "shape": spec["shape"], "values": sha256(values.data)}
        assert spec["digest"] == f"sha256:{sha256(canonical(header))}"
        assert (str(array.dtype), list(array.shape)) == (spec["dtype"], spec["shape"])
        arrays[name] = values
    meaning = ("id", "digest", "capture", "gamma", "value_of")
    content = {
        "format": manifest["format_version"][0],
        "environment": manifest["environment"],
        "experts": [{key: e[key] for key in meaning if key in e} for e in manifest["experts"]],
        "arrays": manifest["arrays"],
    }
    assert manifest["id"] == f"sha256:{sha256(canonical(content))}"
    return manifest, arrays


def test_everything_can_be_read_and_checked_from_the_specification(ragged):
    manifest, arrays = read(ragged.path)
    assert manifest["id"] == ragged.id
    assert set(arrays) == set(ragged.names)
    assert all(np.array_equal(arrays[name], ragged.read(name)) for name in arrays)
