"""The files of a vault are checked before values are read."""

import numpy as np
import pytest

from kd_offline import convert
from kd_offline.errors import KdOfflineError
from tests.unit.datasets.convert.vault.vaults import ACTIONS, leaves, write_vault


def spoilt(name, values):
    return {**leaves(), name: values}


ODD = {
    "continuous": (spoilt("actions", np.zeros((1, 30, 3, 2), np.float32)), "continuous"),
    "no end": (spoilt("terminals", np.zeros((1, 30, 3), bool)), "no episode ends in it"),
    "missing": ({k: v for k, v in leaves().items() if k != "rewards"}, "no leaf rewards"),
    "agents": (spoilt("rewards", np.zeros((1, 30, 2), np.float32)), "differ in the numbers"),
    "streams": (spoilt("rewards", np.zeros((2, 30, 3), np.float32)), "differ in the numbers"),
    "axes": (spoilt("observations", np.zeros((1, 30, 3), np.float32)), "3 axes"),
    "nan": (spoilt("observations", np.full((1, 30, 3, 4), np.nan, np.float32)), "not finite"),
    "beyond": (spoilt("actions", np.full((1, 30, 3), ACTIONS, np.int32)), "beyond the width"),
    "below": (spoilt("actions", np.full((1, 30, 3), -1, np.int32)), "below zero"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name):
    arrays, words = ODD[name]
    write_vault(tmp_path / "x.vlt" / "Good", arrays)
    with pytest.raises(KdOfflineError, match=words) as caught:
        convert(tmp_path / "x.vlt", tmp_path / "y.zarr")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "y.zarr").exists()


def test_several_vaults_in_one_folder(tmp_path):
    for uid in ("Good", "Poor"):
        write_vault(tmp_path / "x.vlt" / uid, leaves())
    with pytest.raises(KdOfflineError, match="holds the vaults Good, Poor"):
        convert(tmp_path / "x.vlt", tmp_path / "y.zarr")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": "a"}', "{" * 10000])
def test_damaged_metadata(tmp_path, text):
    folder = write_vault(tmp_path / "x.vlt" / "Good", leaves())
    (folder / "metadata.json").write_text(text)
    with pytest.raises(KdOfflineError, match=r"metadata\.json is damaged"):
        convert(folder, tmp_path / "y.zarr")


def test_another_version(tmp_path):
    folder = write_vault(tmp_path / "x.vlt" / "Good", leaves(), version=2.0)
    with pytest.raises(KdOfflineError, match=r"version 2\.0, but 1\.x is read"):
        convert(folder, tmp_path / "y.zarr")
