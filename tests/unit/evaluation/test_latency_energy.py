"""Energy against a stand-in of zeus that behaves as the real one does, and without any."""

import sys
import textwrap

import numpy as np
import pytest

from kd_offline.errors import MissingExtraError
from kd_offline.evaluation import latency
from kd_offline.evaluation.latency import meter
from kd_offline.schemas.hardware import UnavailableEnergy

# What zeus.monitor is: windows by unique names; joules of each processor package, or None where
# RAPL cannot be read; millijoules of the rails of a board.
MONITOR = """
from dataclasses import dataclass

JOULES = {joules}
RAIL = {rail}


@dataclass
class Rails:
    cpu_energy_mj: float | None = None
    gpu_energy_mj: float | None = None


@dataclass
class Measurement:
    time: float
    gpu_energy: dict
    cpu_energy: dict | None = None
    dram_energy: dict | None = None
    soc_energy: Rails | None = None


class ZeusMonitor:
    def __init__(self, gpu_indices=None, cpu_indices=None, sync_execution_with="torch"):
        {init}
        assert gpu_indices == []
        self.open = set()

    def begin_window(self, key, sync_execution=True):
        if key in self.open:
            raise ValueError(f"Measurement window '{{key}}' already exists")
        self.open.add(key)

    def end_window(self, key, sync_execution=True, cancel=False):
        if key not in self.open:
            raise ValueError(f"Measurement window '{{key}}' does not exist")
        self.open.remove(key)
        return Measurement(2.0, {{}}, JOULES, None, Rails(RAIL) if RAIL else None)
"""


@pytest.fixture
def zeus(tmp_path, monkeypatch):
    def install(joules="None", rail="None", init="pass", head=""):
        package = tmp_path / "zeus"
        package.mkdir()
        (package / "__init__.py").write_text(head)
        text = textwrap.dedent(MONITOR).format(joules=joules, rail=rail, init=init)
        (package / "monitor.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield install
    for name in [name for name in sys.modules if name.split(".")[0] == "zeus"]:
        del sys.modules[name]


def measured(sample, seconds):
    found = meter()
    assert not isinstance(found, UnavailableEnergy)
    return found(sample, seconds)


def steps(count):
    return np.full(count, 1_000_000, np.int64)  # a millisecond each


def test_without_zeus_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus", None)
    with pytest.raises(MissingExtraError, match=r"kd-offline\[energy\]"):
        meter()
    found = latency._measure_energies({"a": steps}, asked=True)["a"]
    assert found.kind == "unavailable"
    assert "kd-offline[energy]" in found.reason


def test_the_energy_of_packages_is_shared_out_among_steps(zeus):
    zeus(joules="{0: 3.0, 1: 0.2}")
    found = measured(steps, 0.5)
    # 500 ms in bursts of 64 steps: 8 bursts
    assert found.kind == "measured"
    assert (found.steps, found.seconds, found.meter) == (512, 2.0, "zeus")
    assert found.microjoules == pytest.approx(3.2e6 / 512)
    assert found.parts == ("processor package 0", "processor package 1")


def test_the_rail_of_a_board_is_in_millijoules(zeus):
    zeus(rail="640.0")
    found = measured(steps, 0.05)
    assert found.microjoules == pytest.approx(0.64e6 / 64)
    assert found.parts == ("processor rail",)


@pytest.mark.parametrize("joules", ["None", "{}", "{0: 0.0}"])
def test_a_machine_without_a_meter_has_no_energy(zeus, joules):
    zeus(joules=joules)
    found = measured(steps, 0.05)
    assert found == UnavailableEnergy(reason="zeus finds no meter on this machine")


def test_a_meter_that_cannot_be_read_says_why(zeus):
    zeus(init="raise RuntimeError('no permission to read RAPL')")
    found = meter()
    assert found.kind == "unavailable"
    assert "no permission to read RAPL" in found.reason


def test_a_library_that_zeus_needs_and_that_fails_is_no_crash(zeus):
    zeus(head="{}['ROCM_HOME']")  # as the library for AMD's GPUs does without them
    found = meter()
    assert found.kind == "unavailable"
    assert "ROCM_HOME" in found.reason


def test_nothing_is_measured_unasked():
    energies = latency._measure_energies({"a": steps}, asked=False)
    assert energies["a"].reason.startswith("not measured")
