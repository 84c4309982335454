import numpy as np

from kd_offline.datasets.format.chunks import all_finite


def test_finite_numbers():
    for dtype in (np.float16, np.float32, np.float64):
        limit = np.finfo(dtype).max
        assert all_finite(np.array([0.0, -0.0, limit, -limit], dtype))
        for bad in (np.nan, -np.nan, np.inf, -np.inf):
            assert not all_finite(np.array([1.0, bad, -1.0], dtype))
    assert all_finite(np.array([-1, 5]))
