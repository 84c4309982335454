import threading

import pytest

from kd_offline.datasets.storage.threads import parallel_map


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_items(threads):
    assert parallel_map(lambda number: number**2, range(20), threads) == [k**2 for k in range(20)]


def test_a_single_item_needs_no_thread():
    assert parallel_map(lambda _: threading.current_thread(), ["one"], 4) == [
        threading.current_thread()
    ]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_one_item_is_raised(threads):
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda number: 1 / number, [2, 1, 0, 1], threads)
