import subprocess
import sys

import pytest

from kd_offline import environments
from kd_offline.errors import UnknownNameError


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
