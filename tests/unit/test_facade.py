import pytest

import kd_offline


@pytest.mark.parametrize("name", kd_offline.__all__)
def test_every_public_name_is_there(name):
    assert getattr(kd_offline, name) is not None
    assert name in dir(kd_offline)


def test_every_lazy_name_is_public():
    assert set(kd_offline._LOCATIONS) | {"__version__"} == set(kd_offline.__all__)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="has no attribute 'recrod'"):
        kd_offline.recrod  # noqa: B018


def test_the_package_is_typed():
    from importlib.resources import files

    assert (files("kd_offline") / "py.typed").is_file()
