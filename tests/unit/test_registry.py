"""Registries: names without imports, plug-ins by entry points, faults in one sentence."""

import sys
from importlib import metadata

import pytest

from kd_offline import code_guard, registry
from kd_offline.errors import UnknownNameError, UsageError, UserCodeError
from kd_offline.registry import Registry

OURS = {"joined": "os.path:join", "counted": "collections:Counter"}


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Install a package for this process; call with its name, version and entry points."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(package, version, entries, module=""):
        info = tmp_path / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[kd_offline.things]", *lines, ""]))
        if module:
            name = next(iter(entries.values())).partition(":")[0]
            (tmp_path / f"{name}.py").write_text(module)
            monkeypatch.delitem(sys.modules, name, raising=False)

    return install


@pytest.fixture
def things():
    return Registry("thing", "kd_offline.things", OURS)


def test_our_parts_come_in_the_order_of_the_table_and_are_imported_when_asked_for(things):
    assert things.names() == ("joined", "counted")
    assert "joined" in things
    assert list(things) == ["joined", "counted"]
    assert things.load("joined")("a", "b") == "a/b"
    assert things.origin("joined").ours


def test_a_plug_in_adds_a_part_that_is_imported_only_when_asked_for(things, plug_in):
    plug_in("more-things", "1.2", {"doubled": "more_things_a:doubled"}, "doubled = lambda x: 2 * x")
    assert things.names() == ("joined", "counted", "doubled")
    assert "more_things_a" not in sys.modules
    assert things.load("doubled")(4) == 8
    origin = things.origin("doubled")
    assert (str(origin), origin.ours) == ("more-things 1.2", False)


def test_a_package_that_is_installed_into_a_running_session_is_seen(things, plug_in, tmp_path):
    assert things.plug_ins() == {}
    plug_in("late-things", "1.0", {"late": "late_things:x"})
    assert [str(origin) for origin in things.plug_ins().values()] == ["late-things 1.0"]
    (tmp_path / "late-things-1.0.dist-info").rename(tmp_path / "gone")
    plug_in("late-things", "2.0", {"late": "late_things:x"})
    assert str(things.origin("late")) == "late-things 2.0"


def test_plug_ins_that_offer_one_name_are_not_listed_and_stop_nothing(things, plug_in):
    plug_in("first", "1", {"same": "one:x", "joined": "one:y", "own": "one:z"})
    plug_in("second", "1", {"same": "two:x"})
    assert list(things.plug_ins()) == ["own"]


def test_an_unknown_name_lists_what_there_is_and_which_package_to_install(things):
    with pytest.raises(UnknownNameError, match="unknown thing 'join': allowed are joined, counted"):
        things.load("join")
    with pytest.raises(UnknownNameError, match="the run in 'x' names it, from the package 'p 1'"):
        things.require("absent", asked_by="the run in 'x'", package="p 1")
    things.require("joined")


def test_two_packages_with_one_name_are_refused(things, plug_in):
    plug_in("first", "1", {"same": "one:x"})
    plug_in("second", "1", {"same": "two:x"})
    with pytest.raises(UsageError, match="'same' is offered by first and by second"):
        things.load("same")


def test_a_plug_in_cannot_take_the_name_of_one_of_ours(things, plug_in):
    plug_in("third", "1", {"joined": "three:x"})
    with pytest.raises(UsageError, match="'joined' is offered by kd-offline and by third"):
        things.load("joined")


@pytest.mark.parametrize(
    ("module", "said"),
    [("1/0", "ZeroDivisionError"), ("y = 1", "AttributeError"), ("", "No module")],
)
def test_a_plug_in_that_cannot_be_imported_is_named_in_one_sentence(things, plug_in, module, said):
    plug_in("broken", "2.0", {"bad": "broken_things:x" if module else "nowhere_things:x"}, module)
    with pytest.raises(UserCodeError, match=f"thing 'bad' of broken 2.0 failed in import.*{said}"):
        things.load("bad")


def test_a_name_that_ends_in_a_slash_stands_for_all_that_begin_with_it(plug_in):
    things: Registry[str] = Registry(
        "thing", "kd_offline.things", {"os/": "os.path:join", "os/x": "os.path:split"}
    )
    plug_in("wide", "1", {"a/": "wide_a:f", "a/b/": "wide_a:g"}, "f = 'f'; g = 'g'")
    keys = {"os/3": "os/", "os/x": "os/x", "os/x/y": "os/", "a/b/c": "a/b/", "a/bc": "a/"}
    assert {name: things.key(name) for name in keys} == keys
    assert [things.load(name) for name in ("a/b/c", "a/bc")] == ["g", "f"]
    assert str(things.origin("a/bc")) == "wide 1"
    assert "os" not in things
    assert "b/a/" not in things
    with pytest.raises(UnknownNameError, match="unknown thing 'o/3'"):
        things.load("o/3")


def test_records_leave_out_ours_and_names_of_no_part(things, plug_in):
    plug_in("more-things", "1.2", {"doubled": "more_things:doubled"})
    (record,) = things.records(["joined", "doubled", "no part"])
    assert (record.name, record.package, record.version) == ("doubled", "more-things", "1.2")


def test_packages_are_looked_through_once_whoever_asks(monkeypatch):
    scans = []

    def scan():
        scans.append(metadata.entry_points())
        return scans[-1]

    monkeypatch.setattr("kd_offline.registry.entry_points", scan)
    registry._installed.cache_clear()
    assert "no such thing" not in Registry("thing", "kd_offline.things", OURS)
    assert code_guard.unsafe_settings("mpe/simple_spread_v3", {"n_agents": 10**9}) == {}
    assert len(scans) == 1
