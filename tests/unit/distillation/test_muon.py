import warnings

import pytest
import torch

from kd_offline.distillation.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(4, 20, 32), (2, 18, 32), (3, 96, 32)])
def test_singular_values_come_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_matrices_do_not_mix():
    matrices = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([orthogonalised(m.unsqueeze(0)) for m in matrices])
    torch.testing.assert_close(orthogonalised(matrices), alone)


def test_steps_are_those_of_pytorch():
    """PyTorch orthogonalises in bfloat16, so the two agree to its precision only."""
    draw = torch.Generator().manual_seed(2)
    shapes = [(32, 18), (96, 32), (32, 32), (96, 32)]
    start = [torch.randn(s, generator=draw) for s in shapes]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimisers = [
            Muon(ours, 0.02, weight_decay=0.1),
            torch.optim.Muon(theirs, 0.02, weight_decay=0.1),
        ]
    for _ in range(3):
        gradients = [torch.randn(s, generator=draw) for s in shapes]
        for params, optimiser in zip((ours, theirs), optimisers, strict=True):
            for p, gradient in zip(params, gradients, strict=True):
                p.grad = gradient.clone()
            optimiser.step()
    for a, b, first in zip(ours, theirs, start, strict=True):
        moved, other = (a - first).detach().flatten(), (b - first).detach().flatten()
        assert torch.nn.functional.cosine_similarity(moved, other, dim=0) > 0.999
        assert moved.norm().item() == pytest.approx(other.norm().item(), rel=0.01)


def test_parameters_without_gradient_stay():
    moved, still = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    moved.grad = torch.eye(3)
    Muon([moved, still], 0.1).step()
    assert torch.equal(still, torch.ones(3, 3))
    assert not torch.equal(moved, torch.ones(3, 3))
