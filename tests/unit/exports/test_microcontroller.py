import pytest

from kd_offline.errors import UsageError
from kd_offline.exports import c_library
from kd_offline.exports.c_library import CORES, BuildError, measure_on_cores
from tests.unit.exports.conftest import ARM, Kind, exported, needs
from tests.unit.exports.test_c import written

SMALL = Kind("gru", 1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, episodes):
    folder = tmp_path_factory.mktemp("arm")
    found = {}
    for precision in ("fp32", "int8"):
        agents, _ = written(folder / precision, SMALL, episodes, int8=precision == "int8", agents=1)
        found[precision] = measure_on_cores(folder / precision)
    return agents, found


@needs(*ARM)
def test_both_cores_run_every_agent(measured):
    agents, found = measured
    for cores in found.values():
        assert [(c.symbol, c.core) for c in cores] == [
            (agent.symbol, core) for core in CORES for agent in agents
        ]


@needs(*ARM)
def test_sizes_are_those_of_weights_buffers_and_a_little_code(measured):
    agents, found = measured
    for precision, cores in found.items():
        networks = exported(SMALL, int8=precision == "int8")[1]
        for core, network in zip(cores, (networks[0],) * 2, strict=True):
            assert network.parameter_bytes < core.flash_bytes < network.parameter_bytes + 4000
            assert 4 * network.memory_width < core.ram_bytes < 4 * network.memory_width + 1500
    assert found["int8"][0].flash_bytes < found["fp32"][0].flash_bytes
    assert [agent.symbol for agent in agents] == ["kd_agent_0"]


@needs(*ARM)
def test_instructions_follow_the_work(measured):
    macs = exported(SMALL)[1][0].macs
    for core in measured[1]["fp32"]:
        assert 2 < core.instructions_per_step / macs < 30


@needs(*ARM)
def test_wrong_answers_on_the_core_are_found(episodes, tmp_path):
    written(tmp_path / "c", SMALL, episodes, agents=1)
    kernels = tmp_path / "c" / "kernels.h"
    kernels.write_text(kernels.read_text().replace("update * (h[i] - now)", "update * h[i]"))
    with pytest.raises(BuildError, match=r"make emulate failed.*failures [1-9]"):
        measure_on_cores(tmp_path / "c", ["Cortex-M4F"])


@needs(*ARM)
def test_an_unknown_core_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"Cortex-M0.*Cortex-M4F, Cortex-M7"):
        measure_on_cores(tmp_path, ["Cortex-M0"])


def test_a_missing_emulator_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "shutil.which", lambda tool: None if tool == "qemu-system-arm" else f"/usr/bin/{tool}"
    )
    with pytest.raises(UsageError, match="Debian package qemu-system-arm"):
        measure_on_cores(tmp_path)


def test_what_the_board_prints_is_read():
    said = "agent kd_a\nfailures 0\nsteps 9\nagent kd_b\nfailures 2\nnoise\nticks 77\n"
    assert c_library._counts(said) == {
        "kd_a": {"failures": 0, "steps": 9},
        "kd_b": {"failures": 2, "ticks": 77},
    }
