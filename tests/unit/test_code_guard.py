"""What a file may ask to run or to open, and what only the user may."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from kd_offline import environments
from kd_offline.code_guard import (
    check_address,
    check_environment,
    check_expert,
    check_name,
    unsafe_settings,
)
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.experts.recipe import train_recipe

TAG = "pettingzoo/mpe2.simple_tag_v3:parallel_env"

FAMILIAR = [
    "mpe/simple_spread_v3",
    "grid/predator_prey",
    "smax/3m",
    "smac/3s5z_vs_3s6z",
    TAG,
    "pettingzoo/pettingzoo.sisl.pursuit_v5:parallel_env",
    "pettingzoo/pettingzoo.classic.connect_four_v3:env",
]

FOREIGN = [
    "pettingzoo/os:system",
    "pettingzoo/subprocess:run",
    "pettingzoo/os:parallel_env",
    "pettingzoo/builtins:exec",
    "pettingzoo/mpe2.simple_tag_v3:raw_env",
    "pettingzoo/mpe2.simple_tag_v3:parallel_env.__globals__",
    "pettingzoo/mpe2.simple_tag_v3.os:parallel_env",
    "pettingzoo/mpe2:parallel_env",
    "pettingzoo/mpe2.simple_tag_v3:parallel_env\n",
    "pettingzoo/mpe2.simple_tag_v3:parallel_env ",
    "pettingzoo/ mpe2.simple_tag_v3:parallel_env",
    "pettingzoo/mpe2..simple_tag_v3:parallel_env",
    "pettingzoo/mpe2/simple_tag_v3:parallel_env",
    "pettingzoo/mpe2_evil.simple_tag_v3:parallel_env",
    "pettingzoo/mpe2x.simple_tag_v3:parallel_env",
    "pettingzoo/mpe2.simple_tag_v\u0663:parallel_env",
    "pettingzoo/pettingzoo.utils.conversions:aec_to_parallel",
    "pettingzoo/pettingzoo.utils.conversions:parallel_env",
    "pettingzoo/pettingzoo.utils.all_modules:env",
    "pettingzoo/pettingzoo.test.example_envs.generated_agents_env_v0:env",
    "pettingzoo/pettingzoo.classic.rlcard_envs.leduc_holdem:env",
    "PettingZoo/os:system",
    "smax/../../x",
    "smac/../3m",
    "smax/3m\n",
    "mpe/simple_spread_v3:x",
    "grid/predator_prey/..",
    "../smax/3m",
    "/tmp/x",
    "C:\\x",
    "os:system",
    "",
]


def refused(name, settings=None, **more):
    with pytest.raises(UsageError) as caught:
        check_environment(name, settings or {}, asked_by="the run in 'r'", **more)
    return str(caught.value)


@pytest.mark.parametrize("name", FAMILIAR)
def test_what_ships_with_us_and_the_tasks_of_pettingzoo_pass(name):
    check_environment(name, {"n": 3, "fast": True, "x": 0.5}, asked_by="the run in 'r'")


@pytest.mark.parametrize("name", FOREIGN)
def test_everything_else_is_refused_by_name_without_importing_anything(name, monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda *_: pytest.fail("imported"))
    before = set(sys.modules)
    said = refused(name)
    assert said.startswith("the run in 'r' asks for the environment ")
    assert "a file may not start by itself: if you trust that code, pass environment=" in said
    assert said.isprintable()
    assert {m for m in set(sys.modules) - before if not m.startswith("importlib")} == set()


def test_naming_exactly_that_environment_lets_it_pass_with_all_its_settings():
    name, settings = "pettingzoo/my.maze:parallel_env", {"layout": "maps/small.txt"}
    check_environment(name, settings, asked_by="the run", allowed=name)
    assert "with layout='maps/small.txt'" in refused(name, settings), "what one agrees to is shown"
    assert "environment='pettingzoo/my.maze:parallel_env'" in refused(name, settings)
    wrong = refused("pettingzoo/my.maze:other", allowed=name)
    assert "'pettingzoo/my.maze:other', not 'pettingzoo/my.maze:parallel_env'" in wrong


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_rom_install_path": "/tmp/x"},
        {"render_mode": "human"},
        {"evader_controller": "os:system"},
        {"obs": None},
        {"n": [1]},
        {"n": {"a": 1}},
    ],
)
def test_text_that_a_factory_may_take_for_a_path_is_no_setting_of_a_file(settings):
    said = refused(TAG, settings)
    assert f"with {next(iter(settings))}=" in said
    assert f"environment={TAG!r}" in said
    check_environment(TAG, settings, asked_by="the run in 'r'", allowed=TAG)


@pytest.mark.parametrize("number", [{"n_pursuers": 10**6}, {"x_size": -1e9}, {"max_cycles": 10**9}])
def test_numbers_of_which_a_factory_may_make_as_many_are_no_settings_of_a_file(number):
    assert f"with {next(iter(number))}=" in refused(TAG, number)
    assert unsafe_settings(TAG, {"max_cycles": 10**6, "n_pursuers": 1000, "speed": 0.5}) == {}


def test_text_that_says_how_observations_are_coded_passes():
    allowed = {"obs_method": "vector", "obs_type": "ram", "n": 1, "sides": "each"}
    assert unsafe_settings(TAG, allowed) == {}
    assert unsafe_settings("mpe/simple_spread_v3", {"dtype": "float32"}) == {}


def test_long_and_unprintable_names_make_one_printable_sentence():
    for name in ("pettingzoo/" + "x" * 10_000 + ":f", "pettingzoo/a\x1b[2J\u202eb:f"):
        said = refused(name, {"k\x1b": "v\n" * 1000})
        assert said.isprintable()
        assert len(said) < 1500
        assert said.endswith("pass environment='NAME'")


def plug_in(folder: Path, group: str, line: str, package: str = "mazes") -> None:
    """Install a distribution that offers something, without any code of it."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n")


def test_what_an_installed_plug_in_offers_passes(tmp_path, monkeypatch):
    name, reference = "pettingzoo/mazes.envs:parallel_env", "python:mazes.experts:make"
    refused(name)
    plug_in(tmp_path, "kd_offline.environments", "maze = mazes.envs:parallel_env")
    monkeypatch.syspath_prepend(str(tmp_path))
    check_environment(name, {"n": 3}, asked_by="the run in 'r'")
    refused("pettingzoo/mazes.envs:other")
    refused("pettingzoo/mazes.envs:parallel_env.x")
    with pytest.raises(UsageError):
        check_expert(reference, asked_by="it")
    plug_in(tmp_path, "kd_offline.experts", "runner = mazes.experts:make", "runners")
    check_expert(reference, asked_by="it")


@pytest.mark.parametrize("name", ["bundled", "bundled:large", "bundled:mlp", "bundled:masked"])
def test_bundled_experts_pass(name):
    check_expert(name, asked_by="it")


@pytest.mark.parametrize(
    "name",
    [
        *("python:os:system", "onnx:x.onnx", "epymarl:dir", "expert/", "bundled/../x", "bundledx"),
        *("bundled:../../x", "bundled:\n", "bundled\n", "", "trained", "C:\\e", "//host/share"),
    ],
)
def test_other_experts_pass_only_where_the_user_named_exactly_them(name):
    with pytest.raises(UsageError, match="may not load by itself: if you trust it, pass expert="):
        check_expert(name, asked_by="it", allowed=[name + "x"])
    check_expert(name, asked_by="it", allowed=["other", name])


def test_a_name_is_a_word_and_no_path():
    for name in ("stm32f4", "limited", "random-4", "cortex_m7"):
        check_name(name, what="mask", asked_by="it", argument="mask")
    for name in ("mine.toml", "/etc/passwd", "../x", "\\\\host\\x", "a b", "", "x\n", "C:x"):
        with pytest.raises(UsageError, match=r"asks for the mask .* pass mask="):
            check_name(name, what="mask", asked_by="it", argument="mask")


def test_an_address_is_a_path_on_this_machine():
    for place in ("dataset.zarr", "/data/d.zarr", "../d.zarr.zip", "~/d.zarr", "d@sha256:00"):
        check_address(place, asked_by="it", argument="dataset")
    for place in (
        *("https://evil.example/d", "http://127.0.0.1/d", "s3://b/d", "hf://datasets/a/b"),
        *("file:///etc/passwd", "FTP://x/y", "\\\\host\\share\\d", "//host/share/d", "x://y"),
    ):
        with pytest.raises(UsageError, match=r"may not choose which server is asked: .* dataset="):
            check_address(place, asked_by="it", argument="dataset")


def test_recorded_environments_are_loaded_through_the_guard():
    world = environments.load_recorded(
        "mpe/simple_spread_v3", {"n_agents": 2}, asked_by="the run in 'r'"
    )
    assert world.spec.n_agents == 2
    with pytest.raises(UsageError, match="asks for the environment 'pettingzoo/os:system', which"):
        environments.load_recorded("pettingzoo/os:system", {}, asked_by="it")
    with pytest.raises(UnknownNameError, match="unknown setting of mpe/simple_spread_v3 'name'"):
        environments.load_recorded("mpe/simple_spread_v3", {"name": "x"}, asked_by="it")
    with pytest.raises(UnknownNameError, match="unknown environment 'mpe/nothing'"):
        environments.load_recorded("mpe/nothing", {}, asked_by="it")


RECIPES = [
    (
        'environment = "pettingzoo/os:system"',
        "run train_recipe(environment='pettingzoo/os:system')",
    ),
    (
        'environment = "mpe/a"\nopponents = "python:os:getcwd"',
        "{'opponents': 'python:os:getcwd'}",
    ),
    (
        'environment = "mpe/a"\n[kickstart]\nteacher = "folder/"',
        "{'kickstart.teacher': 'folder/'}",
    ),
    (
        'environment = "mpe/a"\n"kickstart.teacher" = "onnx:x"',
        "{'kickstart.teacher': 'onnx:x'}",
    ),
    ('environment = "mpe/a"\nmask = "/etc/passwd"', "pass settings={'mask': '/etc/passwd'}"),
]


@pytest.mark.parametrize(("text", "told"), RECIPES)
def test_a_recipe_that_travelled_names_nothing_foreign(tmp_path, text, told):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        train_recipe(file=tmp_path / "r.toml")
    assert told in str(caught.value)


def test_what_is_given_beside_a_recipe_is_the_users_own(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('environment = "pettingzoo/a:b"\nmask = "x/y.toml"\n[kickstart]\nteacher="e/"')
    given = {"mask": "x/y.toml", "kickstart.teacher": "e/", "opponents": "python:a:b"}
    recipe = train_recipe("pettingzoo/a:b", file=file, settings=given)
    assert (recipe.environment, recipe.mask) == ("pettingzoo/a:b", "x/y.toml")
    nested = {"mask": "m/n.toml", "kickstart": {"teacher": "f/"}}
    assert train_recipe("mpe/a", file=file, settings=nested).experts() == {
        "kickstart.teacher": "f/"
    }
    with pytest.raises(UsageError, match=r"pass settings=.'kickstart.teacher': 'e/'."):
        train_recipe("mpe/a", file=file, settings={"mask": "m", "kickstart": {"weight": 2.0}})


def test_a_recipe_gives_an_environment_that_the_user_named_no_text(tmp_path):
    (tmp_path / "r.toml").write_text('[environment_kwargs]\nlayout = "/etc/passwd"\nn = 3\n')
    with pytest.raises(UsageError, match=r"sets layout of .* give each, such as env"):
        train_recipe("pettingzoo/a:b", file=tmp_path / "r.toml")
    own = {"environment_kwargs": {"layout": "mine"}}
    recipe = train_recipe("pettingzoo/a:b", file=tmp_path / "r.toml", settings=own)
    assert recipe.environment_kwargs == {"layout": "mine", "n": 3}


def test_a_recipe_of_a_distillation_chooses_no_file_for_its_profile(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('[budget]\nprofile = "/dev/zero"\nmax_macs = 100\n')
    with pytest.raises(
        UsageError, match=r"hardware profile '/dev/zero', .* settings=.'budget.profile'"
    ):
        distill_recipe(file=file)
    recipe = distill_recipe(file=file, settings={"budget.profile": "mine.toml"})
    assert recipe.budget.profile == "mine.toml"
    file.write_text('[budget]\nprofile = "stm32f4"\nmax_macs = 100\n')
    assert distill_recipe(file=file).budget.profile == "stm32f4"
