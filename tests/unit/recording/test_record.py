from contextlib import ExitStack

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.environments.grid import predator_prey
from kd_offline.environments.stepping import full_spec
from kd_offline.errors import StorageError, UnknownNameError, UsageError
from kd_offline.recording.record import record, step_bytes
from kd_offline.recording.setup import RecordingSetup
from kd_offline.schemas.record_recipe import RecordRecipe
from kd_offline.tracking.base import FunctionObserver

SPREAD = "mpe/simple_spread_v3"


def make(path, **settings):
    return record(
        SPREAD, path, **{"episodes": 25, "batch": 10, "threads": 1, "partner": None} | settings
    )


def test_a_recording_holds_every_array_and_passes_verification(tmp_path):
    manifest = make(tmp_path / "d.zarr")
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    expected = {"obs", "available_actions", "alive", "actions", "behaviour_logprob", "value"}
    expected |= {"action_source", "logits", "embedding", "reward", "terminated", "truncated"}
    assert {f"steps/{name}" for name in expected} <= set(buffer.names)
    assert {f"final/{name}" for name in ("obs", "available_actions", "alive", "value")} <= set(
        buffer.names
    )
    assert buffer.mask_names == ("full", "limited", "paper", "random-k")
    assert buffer.n_steps == 25 * 25
    assert manifest.experts[0].digest is not None
    assert verify(tmp_path / "d.zarr").ok


def test_same_seed_same_id_other_seed_other_id(tmp_path):
    ids = [make(tmp_path / name, seed=seed).id for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert ids[0] == ids[1] != ids[2]


def test_a_longer_recording_begins_like_a_shorter_one(tmp_path):
    make(tmp_path / "short", episodes=10)
    make(tmp_path / "long", episodes=20)
    short, long = (ExpertBuffer.open(tmp_path / name) for name in ("short", "long"))
    for name in ("steps/obs", "steps/actions", "steps/logits"):
        np.testing.assert_array_equal(short.read(name), long.read(name, 0, short.n_steps))


@pytest.mark.parametrize("stop_at", [10, 20])
def test_an_interrupted_recording_resumes_to_the_same_id(tmp_path, stop_at):
    def stop(done, total, unit):
        if done >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a", observers=[FunctionObserver(progress=stop)])
    with pytest.raises(StorageError, match="resume"):
        make(tmp_path / "a")
    assert make(tmp_path / "a", resume=True).id == make(tmp_path / "b").id


def test_the_recorded_mixture_is_what_was_asked_for(tmp_path):
    make(tmp_path / "d", noise_mixture="0:0.5,1:0.5")
    buffer = ExpertBuffer.open(tmp_path / "d")
    levels = buffer.episodes("noise_level")
    assert set(levels.tolist()) == {0.0, 1.0}
    noisy = buffer.read("steps/action_source").reshape(25, 25, 3) == 1
    np.testing.assert_array_equal(noisy.sum(2), np.repeat(levels[:, None], 25, 1))
    np.testing.assert_allclose(
        buffer.episodes("return"), buffer.read("steps/reward").reshape(25, -1).sum(1), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"episodes": 0}, UsageError),
        ({"masks": ("none",)}, UnknownNameError),
        ({"expert": "bundled:huge"}, UnknownNameError),
    ],
)
def test_bad_settings_are_refused_and_leave_nothing(tmp_path, settings, error):
    with pytest.raises(error):
        make(tmp_path / "d", **settings)
    assert not (tmp_path / "d").exists()


def test_full_observations_count_in_the_size_and_bound_the_batch(tmp_path):
    environment = predator_prey.load()
    spec = full_spec(environment)
    assert spec.full is not None
    more = step_bytes(spec, 0, 0) - step_bytes(environment.spec, 0, 0)
    assert more == 4 * 8 * (3 * 19 * 19 + 2)
    with ExitStack() as stack:
        setup = RecordingSetup(RecordRecipe(environment="grid/predator_prey", threads=1), stack)
        usual = setup._batch()
        setup.spec = spec
        assert (usual, setup._batch()) == (125, 39)
        assert 39 * 200 * 8 * spec.full.width * 4 < 300e6
