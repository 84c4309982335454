"""A reader of expert buffers, written from docs/format.md alone: nothing of kd_offline is imported.

It checks every digest there is: the manifest's own, the id, every file, and every array's values.

    python tests/compatibility/foreign_reader.py dataset.zarr
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import zarr

MAJOR = 1


class NotTrusted(Exception):
    """The dataset is not what its manifest says."""


def sha256(data) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def expect(right: bool, what: str) -> None:
    if not right:
        raise NotTrusted(what)


def unique(pairs):
    expect(len(dict(pairs)) == len(pairs), "the manifest has a key twice")
    return dict(pairs)


def read_manifest(root: Path) -> dict:
    """Sections 3 and 4: the seal, the version, the id."""
    path = root / "manifest.json"
    expect(path.is_file() and not path.is_symlink(), "there is no manifest: not a dataset")
    text = path.read_bytes()
    manifest: dict = json.loads(text, object_pairs_hook=unique)
    ending = f',\n "manifest_digest": "{manifest["manifest_digest"]}"\n}}\n'.encode("ascii")
    expect(text.endswith(ending), "the manifest does not end with its seal")
    body = text[: len(text) - len(ending)]
    expect(manifest["manifest_digest"] == f"sha256:{sha256(body)}", "the manifest was altered")
    expect(manifest["format_version"][0] == MAJOR, "another major version")
    expect(manifest["id"] == content_id(manifest), "the id is another content's")
    stated = manifest["environment"].get("context")
    if manifest["format_version"] == [MAJOR, 2] or stated is not None:
        expect(stated == context(manifest), "the context is another one's")
    return manifest


def context(manifest: dict) -> str:
    """Section 4: what readers compute with beside environment and arrays."""
    notes = {"episodes", "batch", "noise_rule", "software", "code_revision", "machine"}
    notes |= {"started_at", "seconds"}
    told = {
        "experts": [{k: v for k, v in e.items() if k != "missing"} for e in manifest["experts"]],
        "masks": {
            name: {k: v for k, v in mask.items() if k != "description"}
            for name, mask in manifest["masks"].items()
        },
        "recording": {k: v for k, v in manifest["recording"].items() if k not in notes},
        "splits": manifest["splits"],
    }
    return f"sha256:{sha256(canonical(told))}"


def content_id(manifest: dict) -> str:
    meaning = ("id", "digest", "capture", "gamma", "value_of")
    content = {
        "format": manifest["format_version"][0],
        "environment": manifest["environment"],
        "experts": [{key: e[key] for key in meaning if key in e} for e in manifest["experts"]],
        "arrays": manifest["arrays"],
    }
    return f"sha256:{sha256(canonical(content))}"


def check_files(root: Path, manifest: dict) -> None:
    """Section 5: every listed file has the listed size and digest, and no link leads to it."""
    listed = {file["path"]: file for file in manifest["files"]}
    expect(len(listed) == len(manifest["files"]), "a file is listed twice")
    for name, file in listed.items():
        path = root / name
        inside = path.resolve() == root.resolve() / name
        expect(inside and path.is_file(), f"{name} is missing or a link")
        data = path.read_bytes()
        expect((len(data), sha256(data)) == (file["size"], file["sha256"]), f"{name} was altered")
    for name, array in manifest["arrays"].items():
        for chunk in chunks(root, name, array):
            expect(chunk in listed, f"{chunk} is not listed")


def chunks(root: Path, name: str, array: dict):
    """Section 2: only the first axis is divided."""
    metadata = json.loads((root / name / "zarr.json").read_bytes())
    rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    for index in range(-(-array["shape"][0] // rows)):
        yield f"{name}/c/{index}" + "/0" * (len(array["shape"]) - 1)


def read_array(root: Path, name: str, spec: dict) -> np.ndarray:
    """Section 4: the values, checked against the content digest."""
    array = zarr.open_array(root / name, mode="r", zarr_format=3)
    expect((str(array.dtype), list(array.shape)) == (spec["dtype"], spec["shape"]), f"{name}: type")
    values = np.ascontiguousarray(array[:])
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    header = {"dtype": spec["dtype"], "shape": spec["shape"], "values": sha256(values.data)}
    expect(spec["digest"] == f"sha256:{sha256(canonical(header))}", f"{name}: other values")
    return values


def read(root: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Return manifest and arrays of a dataset after checking everything."""
    manifest = read_manifest(root)
    check_files(root, manifest)
    return manifest, {n: read_array(root, n, spec) for n, spec in manifest["arrays"].items()}


def episode(arrays: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """Return the steps of one episode."""
    start = int(arrays["episodes/offset"][index])
    stop = start + int(arrays["episodes/length"][index])
    steps = {name: values for name, values in arrays.items() if name.startswith("steps/")}
    return {name.removeprefix("steps/"): values[start:stop] for name, values in steps.items()}


if __name__ == "__main__":
    found, values = read(Path(sys.argv[1]))
    for name, array in values.items():
        print(f"{name:28} {array.dtype!s:8} {list(array.shape)}")
    print(f"{found['id']}: every digest is right")
