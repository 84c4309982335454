"""How a sweep judges where the dataset names an environment or an expert that is not familiar."""

from pathlib import Path

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.errors import UsageError
from kd_offline.sweeps.trial_objective import NOTHING, Allowed, judge_for

TINY = Path(__file__).parents[3] / "datasets" / "tiny-spread" / "dataset.zarr"


def dataset(**changes):
    """Open a dataset whose manifest states another reference of its expert."""
    buffer = ExpertBuffer.open(TINY)
    record = buffer.manifest.experts[0].model_copy(update=changes)
    buffer.manifest = buffer.manifest.model_copy(update={"experts": (record,)})
    return buffer


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("trained", "pass expert with that expert's folder"),
        ("python", "pass expert with python:PLACE"),
        ("python:os:getcwd", "pass expert='python:os:getcwd'"),
        ("/tmp", "pass expert='/tmp'"),
    ],
)
def test_an_expert_of_ones_own_is_asked_for(reference, told):
    buffer = dataset(reference=reference)
    with pytest.raises(UsageError) as caught:
        judge_for(buffer, "retention", NOTHING)
    assert told in str(caught.value)
    assert judge_for(buffer, "auto", NOTHING) == "agreement"
    assert judge_for(buffer, "auto", Allowed(expert="bundled")) == "retention"


def test_another_environment_than_the_recorded_one_is_not_let_in():
    with pytest.raises(UsageError, match="not 'pettingzoo/a:b'"):
        judge_for(dataset(), "retention", Allowed(environment="pettingzoo/a:b"))
