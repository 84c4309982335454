import torch
from safetensors.torch import load_file

from kd_offline.networks.files import write_tensors


def test_tensors_come_back_with_their_bits(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(3), "t": torch.randn(4, 5).T}
    write_tensors(tmp_path / "x.safetensors", tensors)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
