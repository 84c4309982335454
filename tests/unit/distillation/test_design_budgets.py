"""A made-up board takes 100 us for a step and 1 us for a MAC; its code is 1024 bytes.

A network of 6 inputs, one layer of w and 5 actions has 6 w + 5 w = 11 w MACs. Its tables, with rows
in blocks of 8, are w (6 + 1) 4 + 8 (w + 1) 4 + 6 (2) 4 = 60 w + 80 bytes for w in multiples of 8.
"""

from typing import cast

import pytest
from pydantic import ValidationError

from kd_offline.distillation.design import allocate_budget
from kd_offline.errors import BudgetError, UnknownNameError, UsageError
from kd_offline.hardware.profiles import toml_text
from kd_offline.schemas.budget import Budget, Worth
from kd_offline.schemas.hardware import HardwareProfile
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.testing.factories import environment_spec, full_mask


def figure(value, unit):
    source = "made up for this test"
    return {"value": value, "unit": unit, "source": source, "kind": "assumed", "date": "2026"}


BOARD = {
    "name": "board",
    "title": "Made-up board",
    "core": "1 core",
    "clock": figure(1e6, "Hz"),
    "flash": figure(3 * 1024, "B"),
    "ram": figure(4096, "B"),
    "engines": {
        "c": {
            "instructions_per_step": figure(100, "instructions"),
            "instructions_per_mac": figure(1, "instructions/MAC"),
            "cycles_per_instruction": figure(1, "cycles/instruction"),
            "code": figure(1024, "B"),
        }
    },
}


@pytest.fixture
def board(tmp_path):
    def write(**changes):
        file = tmp_path / "board.toml"
        file.write_text(toml_text(HardwareProfile.model_validate(BOARD | changes)))
        return str(file)

    return write


def card(*widths, mask=True):
    spec = environment_spec((6,) * len(widths))
    seen = tuple(tuple(map(bool, row)) for row in full_mask(spec)) if mask else None
    return StudentCard(
        environment=spec,
        architecture=StudentArchitecture(kind="mlp", depth=1),
        widths=widths,
        mask="full",
        mask_features=seen,
        mask_as_input=False,
        motion=False,
        last_action=False,
        method="kl",
        dataset="",
        seeds=(0,),
    )


def worths(*totals):
    return [
        Worth(agent=f"agent_{i}", total=x, linear=0, decision=1, blocks=())
        for i, x in enumerate(totals)
    ]


def widths(found):
    return tuple(agent.hidden for agent in found.agents)


@pytest.mark.parametrize(
    ("totals", "expected"),
    [
        ((0.4, 0.1), (32, 16)),  # a quarter of the worth is half of the width
        ((0.1, 0.4), (16, 32)),
        ((0.3, 0.0), (32, 8)),
        ((0.0, 0.0), (32, 32)),
        ((0.2, 0.1), (32, 22)),  # 22.6
    ],
)
def test_width_follows_worth(totals, expected, board):
    budget = Budget(profile=board(), max_latency_us=1000)
    assert widths(allocate_budget(card(32, 32), worths(*totals), budget)) == expected


def test_figures_are_those_of_the_formulas(board):
    found = allocate_budget(card(16), worths(1), Budget(profile=board(), max_latency_us=500))
    one = found.agents[0].figures
    worked = {"macs": 176, "latency_us": 276, "flash_kb": 1040 / 1024 + 1}
    worked["ram_kb"] = 4 * (6 + 16 + 1 + 5) / 1024
    assert {name: x.value for name, x in one.items() if name in worked} == pytest.approx(worked)
    kinds = {name: x.kind for name, x in one.items()}
    assert (kinds["macs"], kinds["ram_kb"]) == ("derived", "derived")
    assert (kinds["latency_us"], kinds["flash_kb"]) == ("modelled", "modelled")
    assert found.limits == {"latency_us": 500, "flash_kb": 3, "ram_kb": 4}
    assert "instruction count" in found.agents[0].figures["latency_us"].source
    assert "energy_uj" not in one  # the board states no power


def test_each_agent_is_narrowed_until_it_fits_its_own_device(board):
    # A unit takes 11 us: 27 wide takes 397, 28 wide 408; the other keeps what its worth gives it.
    budget = Budget(profile=board(), max_latency_us=400)
    assert widths(allocate_budget(card(32, 32), worths(0.4, 0.1), budget)) == (27, 16)


def test_a_team_on_one_device_is_narrowed_together(board):
    # A width of w takes 100 + 11 w us: (31, 15) would take 706, (30, 15) takes 430 + 265.
    budget = Budget(profile=board(flash=figure(8192, "B")), max_latency_us=700, shared_device=True)
    found = allocate_budget(card(32, 32), worths(0.4, 0.1), budget)
    assert widths(found) == (30, 15)
    assert found.team["latency_us"] == pytest.approx(695)


def test_the_device_itself_is_a_limit(board):
    # 3 KB less 1 KB of code are 2048 bytes of tables: 32 wide takes 2000, 40 wide 2480.
    assert widths(allocate_budget(card(64), worths(1), Budget(profile=board()))) == (32,)


def test_int8_fits_where_fp32_does_not():
    # 16 wide: fp32 1040 bytes; int8 16 (6 + 8) + 8 (16 + 8) + 48 = 464. 24 wide: 664.
    single = Budget(max_flash_kb=0.7)
    small = Budget(max_flash_kb=0.7, precision="int8")
    assert widths(allocate_budget(card(32), worths(1), single)) == (8,)
    assert widths(allocate_budget(card(32), worths(1), small)) == (24,)


def test_stated_widths_are_the_widest(board):
    budget = Budget(profile=board())
    assert widths(allocate_budget(card(16, 3), worths(1, 1), budget)) == (16, 3)
    assert widths(allocate_budget(card(20), worths(1), budget)) == (20,)


def test_columns_of_drawn_masks_all_count():
    found = allocate_budget(card(16, mask=False), worths(1), Budget(max_macs=10**6))
    assert found.agents[0].figures["macs"].value == 176


@pytest.mark.parametrize("shared", [False, True])
def test_what_cannot_fit_names_the_nearest_budget_which_then_fits(shared, board):
    asked = Budget(profile=board(), max_latency_us=120, max_flash_kb=1.1, shared_device=shared)
    with pytest.raises(BudgetError) as caught:
        allocate_budget(card(32, 32), worths(1, 1), asked)
    text = str(caught.value)
    # 4 wide: 44 MACs, 144 us; tables 8 rows (7) 4 + 8 (5) 4 + 48 = 432 bytes, with the code 1456.
    each = 144.0 * (1 + shared)
    assert f"needs {each:.4g} us (at most 120)" in text
    settings = cast(dict[str, float], caught.value.remedies[0].arguments["settings"])
    given = {name.removeprefix("budget."): value for name, value in settings.items()}
    assert given["max_latency_us"] == each
    assert 0 <= given["max_flash_kb"] - 1456 / 1024 * (1 + shared) < 0.01  # rounded up
    met = Budget.model_validate(asked.model_dump() | given)
    assert widths(allocate_budget(card(32, 32), worths(1, 1), met)) == (4, 4)
    less = Budget.model_validate(asked.model_dump() | given | {"max_latency_us": each - 0.1})
    with pytest.raises(BudgetError):
        allocate_budget(card(32, 32), worths(1, 1), less)


def test_bad_budgets_are_refused(board):
    with pytest.raises(UsageError, match="cannot predict max_energy_uj: it lacks"):
        allocate_budget(card(8), worths(1), Budget(profile=board(), max_energy_uj=1))
    with pytest.raises(UnknownNameError, match="stm32f4"):
        allocate_budget(card(8), worths(1), Budget(profile="stm32f5"))
    for wrong in ({}, {"max_latency_us": 1}, {"max_macs": -1}, {"max_flash_kb": 0}):
        with pytest.raises(ValidationError):
            Budget.model_validate(wrong)
