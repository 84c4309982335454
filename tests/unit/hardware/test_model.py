import pytest

from kd_offline.hardware.model import Demand, latency_model, predict
from kd_offline.hardware.profiles import load
from kd_offline.networks.arithmetic import ExportedShape
from kd_offline.schemas.hardware import HardwareProfile

UNITS = {
    "clock": "Hz",
    "core_peak_flops": "FLOP/s",
    "effective_flops": "FLOP/s",
    "overhead": "s",
    "memory_bandwidth": "B/s",
    "cache": "B",
    "ram": "B",
    "flash": "B",
    "idle_power": "W",
    "active_power": "W",
    "energy_per_flop": "J",
    "energy_per_byte": "J",
    "instructions_per_mac": "instructions/MAC",
    "cycles_per_instruction": "cycles/instruction",
    "instructions_per_step": "instructions",
    "code": "B",
}
STEP = Demand(macs=500, parameter_bytes=3000, ram_bytes=200)


def figures(values, kind="measured"):
    known = {"source": "for tests", "kind": kind, "date": "2026-11-21"}
    return {k: {"value": v, "unit": UNITS[k], **known} for k, v in values.items()}


def profile(engines=None, **values):
    parts = {name: figures(each) for name, each in (engines or {}).items()}
    head = {"name": "mine", "title": "Mine", "core": "one", "engines": parts}
    return HardwareProfile.model_validate(head | figures(values))


def test_a_calibrated_engine_by_hand():
    mine = profile(
        {"c": {"effective_flops": 1e9, "overhead": 2e-6}}, cache=1000.0, memory_bandwidth=1e9
    )
    # 1000 FLOPs take 1 us; 2000 bytes beyond the cache take 2 us, which is more
    found = predict(mine, STEP)
    assert found.latency_us == pytest.approx(4.0)
    assert (found.kind, found.basis) == ("modelled", "calibrated")
    # 2000 FLOPs take as long as the bytes, 4000 longer
    assert latency_model(mine).seconds(1000, 3000) == pytest.approx(4e-6)
    assert latency_model(mine).seconds(2000, 3000) == pytest.approx(6e-6)


def test_without_an_overhead_it_is_said_to_be_missing():
    found = predict(profile({"c": {"effective_flops": 1e9}}), STEP)
    assert found.latency_us == pytest.approx(1.0)
    assert "engines.c.overhead" in found.missing


def test_instructions_by_hand():
    mine = profile(
        {"c": {"instructions_per_mac": 6, "cycles_per_instruction": 1.5}},
        clock=100e6,
        core_peak_flops=1e9,
    )
    found = predict(mine, STEP)
    assert found.basis == "instruction count"
    assert found.latency_us == pytest.approx(500 * 9 / 100)
    assert "engines.c.instructions_per_step" in found.missing
    longer = {"instructions_per_mac": 6, "cycles_per_instruction": 1.5, "instructions_per_step": 40}
    assert predict(profile({"c": longer}, clock=100e6), STEP).latency_us == pytest.approx(45.6)
    assert predict(mine, STEP, "numpy").basis == "peak bound"


def test_a_bound_by_the_peak_forgets_memory():
    found = predict(profile(core_peak_flops=1e9, memory_bandwidth=1.0), STEP)
    assert found.basis == "peak bound"
    assert found.latency_us == pytest.approx(1.0)
    assert {"engines.c.effective_flops", "engines.c.overhead"} <= set(found.missing)


def test_nothing_is_guessed():
    found = predict(profile(), STEP)
    assert [found.latency_us, found.basis, found.fits] == [None] * 3
    assert found.energy.kind == "unavailable"
    assert "core_peak_flops" in found.missing


def test_energy_of_operations_by_hand():
    engines = {"c": {"effective_flops": 1e9, "overhead": 1e-6}}
    costs = {"energy_per_flop": 2e-12, "energy_per_byte": 3e-12}
    dynamic = predict(profile(engines, **costs), STEP)
    # 1000 x 2 pJ + 3000 x 3 pJ = 11 nJ
    assert dynamic.energy.microjoules == pytest.approx(0.011)
    assert "idle_power" in dynamic.missing
    whole = predict(profile(engines, idle_power=0.5, **costs), STEP)
    assert whole.energy.microjoules == pytest.approx(0.011 + 0.5 * 2)  # 2 us at 0.5 W
    assert whole.energy.kind == "modelled"
    assert "idle_power (measured)" in whole.energy.figures


def test_energy_of_active_power_by_hand():
    engines = {"c": {"effective_flops": 1e9, "overhead": 1e-6}}
    found = predict(profile(engines, active_power=3.0), STEP).energy
    assert (found.microjoules, found.formula) == (pytest.approx(6.0), "P_active t")
    bound = predict(profile(core_peak_flops=1e9, active_power=3.0), STEP).energy
    assert "lower bound" in bound.formula
    timeless = predict(profile(active_power=3.0), STEP).energy
    assert "no time" in timeless.reason


def test_int8_uses_its_own_engine_where_it_is_known():
    step = Demand(500, 1000, 200, "int8")
    engines = {"c": {"effective_flops": 1e9}, "c-int8": {"effective_flops": 4e9}}
    assert predict(profile(engines), step).latency_us == pytest.approx(0.25)
    del engines["c-int8"]
    other = predict(profile(engines), step)
    assert other.latency_us == pytest.approx(1.0)
    assert "engines.c-int8" in other.missing


@pytest.mark.parametrize(
    ("memory", "fits"),
    [
        ({"flash": 3000.0, "ram": 200.0}, True),
        ({"flash": 2999.0, "ram": 200.0}, False),
        ({"flash": 3000.0, "ram": 199.0}, False),
        ({"ram": 3200.0}, True),
        ({"ram": 3199.0}, False),
        ({"flash": 3000.0}, None),
    ],
)
def test_whether_it_fits(memory, fits):
    assert predict(profile(**memory), STEP).fits is fits


def test_code_and_padded_tables_take_flash():
    step = Demand(500, 3000, 200, flash_bytes=3100)
    memory = {"flash": 3500.0, "ram": 200.0}
    assert predict(profile(**memory), step).fits
    assert predict(profile({"c": {"code": 400.0}}, **memory), step).fits
    assert not predict(profile({"c": {"code": 401.0}}, **memory), step).fits


def test_a_student_on_a_microcontroller():
    shape = ExportedShape(30, (32,), 32, 9)
    macs = 30 * 32 + 6 * 32 * 32 + 32 * 9
    assert shape.cost().macs == macs
    found = predict(load("stm32f4"), Demand.of(shape))
    assert found.latency_us == pytest.approx((2170 + macs * 3.11) / 168)
    assert "engines.c.cycles_per_instruction (assumed)" in found.figures
    assert found.fits
    assert Demand.of(shape, "int8").parameter_bytes == shape.memory("int8").parameters
