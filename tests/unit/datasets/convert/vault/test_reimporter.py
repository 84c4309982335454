"""A vault that we wrote has every leaf that its manifest promises."""

import json

import pytest

from kd_offline import convert
from kd_offline.errors import KdOfflineError
from tests.unit.datasets.convert.vault.vaults import leaves, write_vault


def test_a_promised_leaf_that_is_absent(tmp_path):
    folder = write_vault(tmp_path / "x.vlt" / "Good", leaves())
    document = json.loads((folder / "metadata.json").read_text())
    document["structure_dtype"]["infos"]["ghost"] = "float32"
    (folder / "metadata.json").write_text(json.dumps(document))
    with pytest.raises(KdOfflineError, match="leaf 'infos/ghost' cannot be opened"):
        convert(folder, tmp_path / "y.zarr")
