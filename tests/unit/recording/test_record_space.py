import shutil
from collections import namedtuple

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.errors import StorageError
from kd_offline.recording import record as recording
from kd_offline.recording.record import record
from kd_offline.testing.factories import environment_spec
from kd_offline.tracking.base import FunctionObserver
from kd_offline.types import PolicyOutput

SPREAD = "mpe/simple_spread_v3"
Usage = namedtuple("Usage", "total used free")


def with_free(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, free))


def test_what_will_be_written_is_told_and_not_exceeded(tmp_path):
    said: list[str] = []
    record(
        SPREAD,
        tmp_path / "d.zarr",
        episodes=200,
        threads=1,
        observers=[FunctionObserver(message=said.append)],
    )
    stored = ExpertBuffer.open(tmp_path / "d.zarr").manifest.size_bytes
    spec = ExpertBuffer.open(tmp_path / "d.zarr").spec
    most = 200 * (spec.episode_limit + 1) * recording.step_bytes(spec, 128, 2)
    assert stored < most < 1.3 * stored
    assert said[0].startswith("recording 200 episodes of mpe/simple_spread_v3 into ")
    assert f"{most / 1e6:.1f} MB at most; fewer episodes" in said[0]


def test_the_default_recording_takes_some_800_megabytes():
    from kd_offline import environments

    spec = environments.load(SPREAD).spec
    assert 30_000 * 25 * recording.step_bytes(spec, 128, 2) == pytest.approx(0.83e9, rel=0.05)


class Tapped:
    """A policy of the user's own with an embedding of 4 numbers and a tap of 1000."""

    def start(self, seeds):
        return 0

    def act(self, view, memory):
        shape = view.available_actions.shape
        layers = (np.zeros((*shape[:2], width), np.float32) for width in (4, 1000))
        embedding, wide = layers
        output = PolicyOutput(np.zeros(shape, np.float32), embedding, taps={"wide": wide})
        return output, memory


def tapped(spec):
    return Tapped()


def test_inner_layers_of_a_policy_of_the_users_own_count(tmp_path):
    said: list[str] = []
    record(
        SPREAD,
        tmp_path / "d.zarr",
        expert=f"python:{__name__}:tapped",
        episodes=4,
        threads=1,
        observers=[FunctionObserver(message=said.append)],
    )
    spec = ExpertBuffer.open(tmp_path / "d.zarr").spec
    most = 4 * (spec.episode_limit + 1) * recording.step_bytes(spec, 1004, 2)
    assert any(f"{most / 1e3:.1f} kB at most" in line for line in said), said


@pytest.mark.parametrize("width", [0, 7])
def test_a_step_takes_what_its_arrays_take(width):
    """Two agents, observations 3, actions 4, state 5: bytes of the arrays of the format."""
    spec = environment_spec((3, 2), (4, 4), state_width=5)
    agent = 4 * 3 + 4 + 4 * 4 + 2 * width  # observation, legal actions, logits, layers
    agent += 1 + 2 + 4 + 1  # alive, action, log-probability, source
    agent += 4 + 4 + 4  # credit, value, reward
    step = 4 * 5 + 4 + 4 + 1 + 1  # state, q_tot, q_tot_max, terminated, truncated
    assert recording.step_bytes(spec, width, 2) == 2 * agent + step


def test_what_cannot_fit_is_refused_before_the_first_episode(tmp_path, monkeypatch):
    with_free(monkeypatch, 1_000_000)
    with pytest.raises(StorageError, match=r"may take .* has 1.0 MB free: .* record 3\d episodes"):
        record(SPREAD, tmp_path / "d.zarr", episodes=200, threads=1)
    assert not (tmp_path / "d.zarr").exists()
    record(SPREAD, tmp_path / "d.zarr", episodes=30, threads=1)


def test_to_resume_needs_room_for_the_rest_alone(tmp_path, monkeypatch):
    target = tmp_path / "d.zarr"

    def stop(done, total, unit):
        if done >= 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(
            SPREAD,
            target,
            episodes=200,
            threads=1,
            batch=50,
            observers=[FunctionObserver(progress=stop)],
        )
    with_free(monkeypatch, 2_500_000)
    with pytest.raises(StorageError, match="may take"):
        record(SPREAD, tmp_path / "e.zarr", episodes=200, threads=1, batch=50)
    manifest = record(SPREAD, target, episodes=200, threads=1, batch=50, resume=True)
    assert manifest.statistics.episodes == 200
