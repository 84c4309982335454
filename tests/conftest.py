"""What holds for every test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Begin with one thread, whatever a command of an earlier test set: sums depend on it."""
    torch.set_num_threads(1)
