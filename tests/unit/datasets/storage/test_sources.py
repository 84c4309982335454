"""Opening the files of a dataset at any kind of address."""

import pytest

from kd_offline.datasets import ExpertBuffer, inspect, verify
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import MismatchError, UnknownNameError


@pytest.mark.parametrize("digits", [12, 20, 64])
def test_a_pinned_dataset_opens_as_itself_alone(whole, digits):
    right = f"{whole.path}@{whole.id[: 7 + digits]}"
    assert ExpertBuffer.open(right).path == whole.path
    assert inspect(right).id == whole.id
    assert verify(right, quick=True).ok
    wrong = f"{whole.path}@sha256:{'0' * digits}"
    for action in (ExpertBuffer.open, inspect, verify):
        with pytest.raises(MismatchError, match=f"{whole.id}.*{'0' * digits}"):
            action(wrong)


def test_an_unknown_scheme_is_named_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"ftp://.*s3://.*hf://"):
        open_files("ftp://host/d.zarr")
