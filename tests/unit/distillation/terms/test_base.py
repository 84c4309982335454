"""Which expert of a dataset is meant where it has several."""

from types import SimpleNamespace

import pytest

from kd_offline.distillation.terms.base import recorded_expert
from kd_offline.errors import MismatchError
from kd_offline.testing.factories import tiny_dataset


def with_experts(buffer, *changes):
    (first,) = buffer.manifest.experts
    experts = [first, *(first.model_copy(update={"id": 1, **change}) for change in changes)]
    manifest = buffer.manifest.model_copy(update={"experts": tuple(experts)})
    return SimpleNamespace(manifest=manifest, names=buffer.names, where=buffer.where)


def test_of_several_experts_whose_outputs_mean_the_same_any_record_will_do(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr")
    assert recorded_expert(buffer) == buffer.manifest.experts[0]
    two = with_experts(buffer, {"reference": "other"})
    assert recorded_expert(two) == buffer.manifest.experts[0]
    assert buffer.manifest.sole_expert == buffer.manifest.experts[0]
    assert two.manifest.sole_expert is None


def test_outputs_of_two_meanings_are_refused_in_one_sentence(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr")
    with pytest.raises(MismatchError, match="has 2 experts, and what the values estimate differs"):
        recorded_expert(with_experts(buffer, {"gamma": 0.5}))
