import pytest
import torch

from kd_offline.errors import UsageError
from kd_offline.networks.accelerator import device_named, moved


def test_the_processor_is_always_there():
    assert device_named("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("there", "auto"),
    [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("cuda", "mps"), "cuda")],
)
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, there, auto):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    assert device_named("auto").type == auto
    for name in there:
        assert device_named(name).type == name


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu"])
def test_what_is_not_there_is_refused_in_one_sentence(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"accelerator '{name}' is not there, .* here are cpu"):
        device_named(name)


def test_only_what_says_how_is_moved():
    network = torch.nn.Linear(2, 1)
    assert moved(network, torch.device("meta"))
    assert network.weight.device.type == "meta"
    assert not moved(object(), torch.device("meta"))
    assert moved(object(), torch.device("cpu"))  # everything is there already
