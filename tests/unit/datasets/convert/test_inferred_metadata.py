"""An environment that is named has to be that of the source."""

import pytest

from kd_offline import convert
from kd_offline.errors import (
    MismatchError,
)
from kd_offline.testing.factories import environment_spec

NAMES = {"hdf5": "x.hdf5", "vault": "x.vlt", "minari": "x-v0", "d4rl": "x.h5", "d3rlpy": "x.h5"}


def export(buffer, folder, kind, **options):
    if kind == "d3rlpy":
        options.setdefault("agent", "agent_0")
    return convert(buffer.path, folder / NAMES[kind], to=kind, **options)


def test_an_environment_that_does_not_fit_is_refused(rich, tmp_path):

    export(rich, tmp_path, "d4rl", agent="agent_0")
    for spec, words in [
        (environment_spec((6, 6)), "2 agents, but the source has 1"),
        (environment_spec((5,)), "5 observed features, but the source has 6"),
        (environment_spec((6,), (2,)), "2 actions, but the source has an action 4"),
        (environment_spec((6,), episode_limit=3), "at most 3 steps"),
    ]:
        with pytest.raises(MismatchError, match=words):
            convert(tmp_path / "x.h5", tmp_path / "y.zarr", spec=spec)
