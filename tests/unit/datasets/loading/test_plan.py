"""Windows of episodes."""

import pytest

from kd_offline.datasets.loading.plan import Windows
from kd_offline.errors import UsageError


@pytest.mark.parametrize(("length", "stride"), [(0, None), (5, 0), (5, 6), (-1, -1)])
def test_windows_that_are_none(length, stride):
    with pytest.raises(UsageError, match="stride of 1 to the length"):
        Windows(length, stride)
