import tomllib

import pytest
from pydantic import ValidationError

from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.hardware.profiles import load, names, toml_text
from kd_offline.schemas.hardware import Figure, HardwareProfile


def figure(value=1.0, unit="Hz", **more):
    known = {"source": "a data sheet", "kind": "datasheet", "date": "2026-11-21"}
    return {"value": value, "unit": unit, **known, **more}


def profile(**more):
    return {"name": "mine", "title": "Mine", "core": "one", **more}


def test_the_devices_are_there():
    assert set(names()) == {
        "jetson-agx-orin",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "stm32f4",
        "stm32h7",
        "x86-core",
    }


@pytest.mark.parametrize("name", names())
def test_every_figure_has_a_source_a_kind_and_a_date(name):
    found = load(name)
    assert found.name == name
    assert found.figures()
    for path, one in found.figures().items():
        assert one.source, path
        assert one.date >= "2014", path
        # what was only supposed says so in words, too
        assert (one.kind == "assumed") == any(
            word in one.source for word in ("recalled", "one cycle for each")
        ), path


@pytest.mark.parametrize("name", names())
def test_toml_gives_the_profile_back(name):
    found = load(name)
    assert HardwareProfile.model_validate(tomllib.loads(toml_text(found))) == found


def test_a_profile_of_ones_own_by_path(tmp_path):
    file = tmp_path / "mine.toml"
    own = HardwareProfile.model_validate(
        profile(title='Mine, "quoted"', clock=figure(1e9), engines={"c": {}})
    )
    file.write_text(toml_text(own))
    assert load(file) == own


def test_an_unknown_profile_lists_the_known():
    with pytest.raises(
        UnknownNameError, match=r"stm32f4, stm32h7.*did you mean 'stm32f4'"
    ) as error:
        load("stm32f40")
    assert error.value.exit_code == 2


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("clock = { value = 1e9, unit = 'MHz', source = 'a data sheet' }", "clock"),
        ("clock = 1e9", "clock"),
        ("speed = 3", "speed"),
    ],
)
def test_a_figure_that_is_not_whole_is_refused(tmp_path, text, why):
    file = tmp_path / "mine.toml"
    file.write_text(f'name = "mine"\ntitle = "Mine"\ncore = "one"\n{text}\n')
    with pytest.raises(UsageError, match=why):
        load(file)


@pytest.mark.parametrize(
    "bad", [{"unit": "MHz"}, {"source": ""}, {"kind": "guessed"}, {"date": "today"}, {"value": 0}]
)
def test_what_a_figure_must_say(bad):
    with pytest.raises(ValidationError):
        HardwareProfile.model_validate(profile(clock=figure() | bad))


def test_figures_by_path():
    engines = {"c": {"overhead": figure(1e-6, "s")}}
    found = HardwareProfile.model_validate(profile(clock=figure(), engines=engines)).figures()
    assert list(found) == ["clock", "engines.c.overhead"]
    assert isinstance(found["clock"], Figure)
