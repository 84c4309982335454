"""Students are designed within the memory of the machine that trains them."""

import pytest

from kd_offline.datasets.format import resource_limits
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import UsageError
from kd_offline.testing.factories import tiny_dataset


def test_students_that_no_memory_here_can_hold_are_refused_before_they_are_made(
    tmp_path, monkeypatch
):
    buffer = tiny_dataset(tmp_path / "d.zarr", 8)
    monkeypatch.setattr(resource_limits, "_available_memory", lambda: 1 << 30)
    settings = {"optimisation.epochs": 1, "student.depth": 3}
    wide = distill_recipe(method="kl", hidden=4096, settings=settings)
    with pytest.raises(
        UsageError, match=r"students of this recipe need [\d.]+ GB .*make student\.hidden or depth"
    ):
        distill(buffer, tmp_path / "run", wide)
    assert not (tmp_path / "run").exists()
