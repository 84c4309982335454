import shutil
from collections import namedtuple

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.errors import StorageError
from kd_offline.recording import record as recording
from kd_offline.recording.record import record
from kd_offline.tracking.base import FunctionObserver

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
    most = 200 * spec.episode_limit * recording.step_bytes(spec, 128, 2)
    assert stored < most < 1.3 * stored
    assert said[0].startswith("recording 200 episodes of mpe/simple_spread_v3 into ")
    assert f"{most / 1e6:.1f} MB at most; fewer episodes" in said[0]


def test_the_default_recording_takes_some_800_megabytes():
    from kd_offline import environments

    spec = environments.load(SPREAD).spec
    assert 30_000 * 25 * recording.step_bytes(spec, 128, 2) == pytest.approx(0.83e9, rel=0.05)


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
