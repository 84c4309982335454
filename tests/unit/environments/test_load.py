import subprocess
import sys

import pytest
from pydantic import ValidationError

from kd_offline import environments
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.schemas.environment import EnvironmentSpec


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
