import numpy as np
import pytest

from kd_offline import environments
from kd_offline.distillation.design import allocate
from kd_offline.errors import UsageError
from kd_offline.schemas.recipes import StudentArchitecture

SPEC = environments.load("mpe/simple_spread_v3").spec


def visible(*counts):
    return np.arange(18) < np.array(counts)[:, None]


@pytest.mark.parametrize(
    ("hidden", "counts", "expected"),
    [
        (24, (18, 18, 18), (24, 24, 24)),
        ((32, 16, 8), (18, 18, 18), (32, 16, 8)),
        ("auto", (10, 14, 12), (16, 32, 24)),
        ("auto", (9, 9, 9), (32, 32, 32)),
    ],
)
def test_allocation(hidden, counts, expected):
    assert allocate(StudentArchitecture(hidden=hidden), SPEC, visible(*counts)) == expected


@pytest.mark.parametrize("hidden", [(32, 16), (32, 16, 0), (8, 8, 8, 8), 0])
def test_wrong_widths_are_refused(hidden):
    with pytest.raises(UsageError, match="do not fit the 3 agents"):
        allocate(StudentArchitecture(hidden=hidden), SPEC, visible(18, 18, 18))
