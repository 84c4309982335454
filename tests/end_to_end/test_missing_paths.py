"""A path that was given and holds nothing is a wrong call, whatever should be there: exit 2."""

import pytest

from tests.end_to_end.conftest import SPREAD, refused

COMMANDS = {
    "inspect": ["inspect", "no"],
    "verify": ["verify", "no"],
    "diff": ["diff", "no", "no"],
    "convert": ["convert", "no.hdf5", "-o", "x.zarr"],
    "split": ["split", "no", "-o", "x.zarr"],
    "push": ["push", "no", "x.zarr"],
    "pull": ["pull", "no", "-o", "x.zarr"],
    "distill": ["distill", "no", "-o", "x"],
    "sweep": ["sweep", "no", "-o", "x"],
    "evaluate": ["evaluate", "no"],
    "report": ["report", "no"],
    "rerun": ["rerun", "no"],
    "export": ["export", "no"],
    "profile": ["profile", "no"],
    "deploy-check": ["deploy-check", "no", "--environment", SPREAD],
    "bench": ["bench", "latency", "no"],
    "hardware": ["hardware", "no.toml"],
    "expert": ["record", SPREAD, "--expert", "no", "-o", "x.zarr"],
    "foreign expert": ["record", SPREAD, "--expert", "epymarl:no", "-o", "x.zarr"],
    "ONNX expert": ["record", SPREAD, "--expert", "onnx:no.onnx", "-o", "x.zarr"],
    "partner": ["record", SPREAD, "--partner", "no", "-o", "x.zarr"],
    "mask": ["record", SPREAD, "--mask", "no.toml", "-o", "x.zarr"],
    "recipe": ["train", "--recipe", "no.toml", "-o", "x"],
    "teacher": ["train", SPREAD, "--teacher", "no", "-o", "x"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_with_nothing_there_is_a_wrong_call(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*COMMANDS[name], code=2)
    assert list(tmp_path.iterdir()) == []
