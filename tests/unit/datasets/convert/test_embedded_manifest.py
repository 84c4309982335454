"""A file that carries our manifest comes back as that dataset or is refused."""

import json

import pytest

from kd_offline import convert
from kd_offline.errors import (
    KdOfflineError,
)

NAMES = {"hdf5": "x.hdf5", "vault": "x.vlt", "minari": "x-v0", "d4rl": "x.h5", "d3rlpy": "x.h5"}


def inside(folder):
    return sorted(path.name for path in folder.iterdir())


def export(buffer, folder, kind, **options):
    if kind == "d3rlpy":
        options.setdefault("agent", "agent_0")
    return convert(buffer.path, folder / NAMES[kind], to=kind, **options)


def test_an_altered_passenger_is_refused(rich, tmp_path):
    export(rich, tmp_path, "vault")
    file = tmp_path / "x.vlt" / "Expert" / "metadata.json"
    document = json.loads(file.read_text())
    text = document["kd_offline_manifest"]
    document["kd_offline_manifest"] = text.replace("0.99", "0.98")
    file.write_text(json.dumps(document))
    with pytest.raises(KdOfflineError, match="does not match its own digest"):
        convert(tmp_path / "x.vlt", tmp_path / "y.zarr")


def test_values_that_were_altered_are_named(rich, tmp_path):
    """No checksum of the library notices this, the digest does."""
    import h5py

    export(rich, tmp_path, "hdf5")
    export(rich, tmp_path, "minari")
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        file["steps/logits"][3, 1, 2] += 1e-6
    with h5py.File(tmp_path / "x-v0" / "data" / "main_data.hdf5", "r+") as file:
        file["episode_2/observations/agent_1"][0, 0] = 0
    for name, array in (("x.hdf5", "steps/logits"), ("x-v0", "steps/obs")):
        with pytest.raises(KdOfflineError, match=rf"altered or damaged.*: {array} do not"):
            convert(tmp_path / name, tmp_path / "y.zarr")
    assert inside(tmp_path) == ["x-v0", "x.hdf5"]
