import pytest

from kd_offline.strict_json import parse


@pytest.mark.timeout(20)
def test_a_repeated_key_among_many_is_found_in_one_pass():
    # A search that compares every key with every other takes some 10^10 steps here.
    keys = [f'"{number}":0' for number in range(100_000)]
    with pytest.raises(ValueError, match="it has the key '99999' twice"):
        parse(("{" + ",".join([*keys, keys[-1]]) + "}").encode())
