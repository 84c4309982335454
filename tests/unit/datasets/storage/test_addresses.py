import pytest

from kd_offline.datasets.storage.addresses import is_remote, scheme_of, split_pin
from kd_offline.errors import UsageError


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("data/d.zarr", ""),
        ("/data/d.zarr", ""),
        ("C:/data/d.zarr", ""),
        ("s3://bucket/d.zarr", "s3"),
        ("HTTPS://host/d.zarr", "https"),
        ("hf://datasets/lab/d@v1", "hf"),
    ],
)
def test_the_scheme_tells_what_kind_of_address_it_is(address, scheme):
    assert scheme_of(address) == scheme
    assert is_remote(address) == bool(scheme)


def test_a_pin_is_the_end_of_an_address():
    digits = "0123456789abcdef" * 4
    assert split_pin(f"s3://b/d.zarr@sha256:{digits}") == ("s3://b/d.zarr", digits)
    assert split_pin("d.zarr@sha256:0123456789ab") == ("d.zarr", "0123456789ab")
    assert split_pin("hf://datasets/lab/d@v1") == ("hf://datasets/lab/d@v1", "")
    assert split_pin("a@b.zarr") == ("a@b.zarr", "")


@pytest.mark.parametrize("pin", ["", "12345", "0123456789AB", "0" * 65, "xyzxyzxyzxyz"])
def test_a_pin_that_is_no_id_is_refused(pin):
    with pytest.raises(UsageError, match="12 to 64"):
        split_pin(f"d.zarr@sha256:{pin}")
