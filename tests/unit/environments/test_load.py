import subprocess
import sys

import pytest
from pydantic import ValidationError

from kd_offline import environments
from kd_offline.errors import MismatchError, UnknownNameError, UsageError, UserCodeError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.parts import PartRecord


def test_every_plain_name_loads() -> None:
    plain = [name for name in environments.names() if "<" not in name]
    assert [environments.load(name).spec.id for name in plain] == plain


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mpe/simple_spread_v3'"):
        environments.load("mpe/simple_spread")


def test_particle_tasks_need_neither_mpe2_nor_torch() -> None:
    code = (
        "import sys; from kd_offline.environments import load; load('mpe/simple_adversary_v3');"
        "print({'mpe2', 'pettingzoo', 'gymnasium', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["mpe/simple_spread_v3", "grid/predator_prey"])
def test_an_episode_that_never_ends_is_refused(name):
    """A file may claim any limit, and a command must not play for ever because of it."""
    with pytest.raises(UsageError, match="less than or equal to 1000000"):
        environments.load(name, episode_limit=10**9)
    spec = environments.load(name).spec
    with pytest.raises(ValidationError, match="less than or equal to 1000000"):
        EnvironmentSpec.model_validate(spec.model_dump() | {"episode_limit": 10**9})


def test_as_many_episodes_run_at_once_as_there_is_room_for_what_agents_see():
    small = environments.load("mpe/simple_spread_v3")
    wide = environments.load("mpe/simple_spread_v3", n_agents=1000)
    assert environments.largest_batch(small, 100_000) == 100_000
    assert environments.largest_batch(wide, 100_000) == (1 << 27) // (1000 * wide.spec.obs_width)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mpe/simple_spread_v3", {"n_agents": 10**9}),
        ("mpe/simple_adversary_v3", {"n_good_agents": 10**9}),
        ("grid/predator_prey", {"size": 100, "n_predators": 5000}),
        ("grid/predator_prey", {"size": 100, "n_prey": 5000}),
        ("grid/predator_prey", {"size": 10**9}),
        ("smac/3m", {"games": 10**9}),
        ("smac/3m", {"step_mul": 10**9}),
    ],
)
def test_a_setting_asks_for_no_more_of_anything_than_a_task_has(name, settings):
    with pytest.raises(UsageError, match=f"{[*settings][-1]}.*less than or equal to"):
        environments.load(name, **settings)


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """Install a package that offers what a module of the given source makes as ``wild``."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(source, name="wild"):
        info = tmp_path / "wild-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wild\nVersion: 1.0\n")
        entry = f"[kd_offline.environments]\n{name} = wild_environment:make\n"
        (info / "entry_points.txt").write_text(entry)
        (tmp_path / "wild_environment.py").write_text(source)
        monkeypatch.delitem(sys.modules, "wild_environment", raising=False)

    return install


TARGETS = """
from kd_offline.testing.targets import TargetsEnvironment

def make(rest="", **settings):
    world = TargetsEnvironment(**settings)
    world.spec = world.spec.model_copy(update={"id": f"wild/{rest}" if rest else "wild"})
    return world
"""


def test_a_plug_ins_environment_is_loaded_by_its_name(offered):
    offered(TARGETS)
    world = environments.load("wild", limit=4)
    assert (world.spec.id, world.spec.episode_limit) == ("wild", 4)


def test_a_plug_ins_name_that_ends_in_a_slash_stands_for_all_that_begin_with_it(offered):
    offered(TARGETS, name="wild/")
    assert environments.load("wild/boar", limit=4).spec.id == "wild/boar"
    assert environments.names()["wild/<name>"] == "of wild 1.0"
    with pytest.raises(UnknownNameError):
        environments.load("wilder/boar")


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("def make(): 1 / 0", UserCodeError, "'wild' of wild 1.0 failed in its factory: ZeroDiv"),
        ("def make(): raise SystemExit(0)", UserCodeError, "'wild' of wild 1.0 failed in"),
        ("make = 3", UserCodeError, "'wild' failed in its signature: TypeError"),
        (
            "def make(): return 3",
            MismatchError,
            "of wild 1.0 gave 'int', which has no spec: follow",
        ),
        (
            "class make: possible_agents = ['a']",
            MismatchError,
            "name one of PettingZoo's pettingzoo/<module>:<factory>",
        ),
        (
            "from kd_offline.testing.targets import TargetsEnvironment as make",
            MismatchError,
            "states the id 'test/targets', by which no file finds it: state 'wild'",
        ),
    ],
)
def test_what_is_no_environment_is_told_in_one_sentence(offered, source, error, words):
    offered(source)
    with pytest.raises(error) as caught:
        environments.load("wild")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["mpe/simple_spread_v3", "smax/3m", "smax/", "pettingzoo/a:b"])
def test_a_plug_in_takes_no_name_of_ours(offered, name):
    offered(TARGETS, name=name)
    with pytest.raises(UsageError, match="is offered by kd-offline and by wild"):
        environments.load(name)


def test_a_file_sets_no_text_on_a_plug_ins_environment(offered):
    offered(TARGETS)
    world = environments.load_recorded("wild", {"limit": 4}, asked_by="the run in 'r'")
    assert world.spec.episode_limit == 4
    for settings in ({"limit": "/etc/passwd"}, {"limit": 10**9}):
        with pytest.raises(UsageError, match="which a file may not start by itself"):
            environments.load_recorded("wild", settings, asked_by="the run in 'r'")
    named = {"asked_by": "the run in 'r'", "allowed": "wild"}
    assert environments.load_recorded("wild", {"limit": 2}, **named).spec.episode_limit == 2


def test_a_file_names_the_package_that_is_to_be_installed():
    part = PartRecord(kind="environment", name="wild", package="wild", version="1.0")
    with pytest.raises(
        UnknownNameError, match=r"the run in 'r' names it, from the package 'wild 1"
    ):
        environments.load_recorded("wild", {}, asked_by="the run in 'r'", parts=(part,))
    other = part.model_copy(update={"name": "tame"})
    with pytest.raises(UnknownNameError, match=r"the run in 'r' names it$"):
        environments.load_recorded("wild", {}, asked_by="the run in 'r'", parts=(other,))
