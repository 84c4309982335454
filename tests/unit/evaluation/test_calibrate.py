import tomllib

import numpy as np
import pytest

from kd_offline.errors import UsageError
from kd_offline.evaluation import calibrate as calibration
from kd_offline.evaluation.calibrate import calibrate, core_cache, fit
from kd_offline.evaluation.engines import ENGINES
from kd_offline.hardware.model import Demand, predict
from kd_offline.hardware.profiles import toml_text
from kd_offline.schemas.hardware import HardwareProfile


def test_an_exact_line_is_found():
    flops = [1e3, 1e4, 1e5]
    found = fit(flops, [2e-6 + x / 4e9 for x in flops])
    assert (found.overhead, found.speed) == pytest.approx((2e-6, 4e9))
    assert found.error < 1e-9


def test_the_error_is_the_largest_relative_one():
    flops = np.array([1e3, 1e4, 1e5])
    found = fit(flops, (2e-6 + flops / 4e9) * [1.0, 1.2, 1.0])
    residuals = (found.overhead + flops / found.speed) / (
        (2e-6 + flops / 4e9) * np.array([1.0, 1.2, 1.0])
    ) - 1
    assert found.error == pytest.approx(np.abs(residuals).max())
    assert 0.05 < found.error < 0.2


def test_no_overhead_is_negative():
    # slower than a line: the straight fit would begin below zero
    flops = np.array([1e3, 1e4, 1e5])
    found = fit(flops, flops**1.5 / 1e12)
    assert found.overhead == 0.0
    assert found.speed > 0


@pytest.mark.parametrize("bad", [{"widths": (8, 16)}, {"widths": (0, 8, 16)}, {"name": "My Box"}])
def test_too_little_to_fit_is_refused(bad):
    with pytest.raises(UsageError, match="three widths or more"):
        calibrate(**bad)


@pytest.fixture
def paced(monkeypatch):
    """Put engines in place that take exactly 1 us and 1 ns for every two FLOPs."""

    def engine(subject, bench):
        return lambda count: np.full(count, 1000 + subject.macs, np.int64)

    def absent(subject, bench):
        msg = "no compiler"
        raise UsageError(msg)

    monkeypatch.setitem(ENGINES, "numpy", engine)
    monkeypatch.setitem(ENGINES, "c", absent)
    monkeypatch.setattr(calibration, "memory_bandwidth", lambda: 1e9)


def test_the_profile_says_what_was_measured(paced):
    profile, lacking = calibrate("mine", engines=("numpy", "c"), widths=(8, 16, 24), rounds=2)
    assert lacking == {"c": "no compiler", "c-int8": "no compiler"}
    assert list(profile.engines) == ["numpy"]
    numpy = profile.engines["numpy"]
    assert numpy.overhead.value == pytest.approx(1e-6)
    assert numpy.effective_flops.value == pytest.approx(2e9)
    assert numpy.effective_flops.error == pytest.approx(0, abs=1e-6)
    for path, figure in profile.figures().items():
        assert figure.kind == "measured", path
        assert figure.source.startswith("kd-offline doctor calibrate"), path
        assert len(figure.date) == 10
    assert "[8, 16, 24]" in numpy.overhead.source
    again = HardwareProfile.model_validate(tomllib.loads(toml_text(profile)))
    assert again == profile
    assert predict(again, Demand(1000, 0), "numpy").latency_us == pytest.approx(2.0)


def test_the_cache_of_a_core_is_read_from_linux(tmp_path):
    for k, (level, size) in enumerate([("1", "32K"), ("1", "32K"), ("2", "512K"), ("3", "8192K")]):
        folder = tmp_path / f"index{k}"
        folder.mkdir()
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
    assert core_cache(tmp_path) == 512 * 1024
    assert core_cache(tmp_path / "none") is None


def test_memory_bandwidth_is_that_of_a_copy(monkeypatch):
    monkeypatch.setattr(calibration, "_COPY_BYTES", 2**20)
    ticks = iter(np.arange(14) * 0.5)
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert calibration.memory_bandwidth() == 2 * 2**20 / 0.5
