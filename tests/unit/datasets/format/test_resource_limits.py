import pytest

from kd_offline.datasets.format import resource_limits
from kd_offline.datasets.format.resource_limits import check_memory, expansion_problem
from kd_offline.errors import UsageError


@pytest.mark.parametrize(
    ("decoded", "stored", "refused"),
    [
        (1 << 30, 0, False),  # so much is free
        ((1 << 30) + 1, 0, True),
        ((1 << 30) + 5000, 5, False),
        ((1 << 30) + 5001, 5, True),
    ],
)
def test_stored_bytes_decode_to_a_thousand_times_as_many_at_most(decoded, stored, refused):
    problem = expansion_problem(decoded, stored)
    assert (problem is not None) == refused
    assert problem is None or f"{decoded:,}" in problem


def test_more_memory_than_there_is_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(resource_limits, "_available_memory", lambda: 10**9)
    check_memory(10**9, "the rows")
    with pytest.raises(UsageError, match=r"the rows need 2\.0 GB of memory, but there are 1\.0"):
        check_memory(2 * 10**9, "the rows")


def test_little_memory_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(resource_limits, "_available_memory", lambda: 0)
    check_memory(1 << 20, "the rows")
