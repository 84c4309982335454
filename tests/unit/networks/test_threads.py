import random

import numpy as np
import pytest
import torch

from kd_offline.networks.threads import computing_with


@pytest.mark.parametrize("threads", [1, 2, None])
def test_the_process_is_as_it_was(threads):
    before = torch.get_num_threads()
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002

    def disturb():
        with computing_with(threads):
            assert torch.get_num_threads() == (threads or before)
            torch.nn.Linear(3, 3)
            np.random.seed(0)  # noqa: NPY002
            random.seed(0)
            torch.set_num_threads(2)
            raise KeyError

    with pytest.raises(KeyError):
        disturb()
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]
    np.testing.assert_array_equal(np.random.get_state()[1], drawn[2])  # noqa: NPY002
