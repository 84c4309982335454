"""Games that do not start, break down or are left alone: one sentence, and nothing runs on."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.errors import GameError
from tests.standins.installations import playable

ROOT = Path(__file__).parents[4]
SEEDS = np.array([3, 1], np.uint64)
STOP = np.ones((2, 3), np.int64)

# As the real one: the game is a process of its own, whose number is written down.
WITH_GAME = """
import os, subprocess, sys
from tests.standins.starcraft import StarCraft2Env as Original

class StarCraft2Env(Original):
    game = None

    def reset(self):
        if self.game is None:
            self.game = subprocess.Popen(["sleep", "600"])
            with open(os.environ["STANDIN_PIDS"], "a") as file:
                print(self.game.pid, os.getpid(), file=file)
        print("the game talks on its output", flush=True)
        return super().reset()

    def step(self, actions):
        if self.steps == 2 and "STANDIN_FALLS" in os.environ:
            print("segmentation fault in the game", file=sys.stderr, flush=True)
            os._exit(3)
        return super().step(actions)

    def close(self):
        super().close()
        if self.game is not None:
            self.game.kill()
            self.game.wait()
"""
NO_START = """
from tests.standins.starcraft import StarCraft2Env as Original

class StarCraft2Env(Original):
    def reset(self):
        raise ConnectionError("Failed to connect to the SC2 websocket.")
"""
RESTARTED = """
from tests.standins.starcraft import StarCraft2Env as Original

class StarCraft2Env(Original):
    def step(self, actions):
        done = super().step(actions)
        return (0, True, {}) if self.steps == 2 else done
"""
NEW_IN_AN_EPISODE = """
from tests.standins.starcraft import StarCraft2Env as Original

class StarCraft2Env(Original):
    running = False

    def reset(self):
        assert not self.running, "a second game is started beside the first"
        self.running = True
        return super().reset()
"""


@pytest.fixture
def pids(tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_PIDS", str(tmp_path / "pids"))
    return tmp_path / "pids"


def all_gone(path, within=60.0):
    """Whether every process that is written down has ended, soon."""
    numbers = [int(number) for number in path.read_text().split()]
    assert len(numbers) >= 2
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not any(runs(number) for number in numbers):
            return True
        time.sleep(0.05)
    return False


def runs(number):
    try:
        status = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


def test_a_game_that_does_not_start_says_why(tmp_path):
    with playable(tmp_path, NO_START):
        world = load("smac/3m")
        said = "game of smac/3m failed: ConnectionError: Failed to connect to the SC2 websocket"
        with pytest.raises(GameError, match=said):
            world.reset(SEEDS)


def test_a_package_that_cannot_be_imported_says_why(tmp_path):
    with (
        playable(tmp_path, "import nowhere_to_be_found\n"),
        pytest.raises(GameError, match="ModuleNotFoundError: No module named 'nowhere_to_be"),
    ):
        load("smac/3m")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
class TestNothingRunsOn:
    def test_after_a_crash(self, tmp_path, pids, monkeypatch):
        monkeypatch.setenv("STANDIN_FALLS", "1")
        with playable(tmp_path, WITH_GAME):
            world = load("smac/3m")
            world.reset(SEEDS)
            world.step(STOP)
            world.step(STOP)
            said = "exit status 3, its last words were 'segmentation fault in the game'"
            with pytest.raises(GameError, match=said) as caught:
                world.step(STOP)
            assert "resume=True" in str(caught.value)
            assert caught.value.exit_code == 1
            assert all_gone(pids)
            monkeypatch.delenv("STANDIN_FALLS")
            assert world.reset(SEEDS).alive.all()  # it can be gone on with
            world.close()

    def test_after_a_process_was_killed(self, tmp_path, pids):
        with playable(tmp_path, WITH_GAME):
            world = load("smac/3m")
            world.reset(SEEDS[:1])
            os.kill(int(pids.read_text().split()[1]), signal.SIGKILL)
            with pytest.raises(GameError, match="exit status -9"):
                world.step(STOP[:1])
            assert all_gone(pids)

    def test_after_it_was_forgotten(self, tmp_path, pids):
        with playable(tmp_path, WITH_GAME):
            world = load("smac/3m")
            world.reset(SEEDS[:1])
            del world
            gc.collect()
            assert all_gone(pids)

    def test_after_we_were_killed(self, tmp_path, pids):
        code = (
            "import numpy as np, os, signal; from kd_offline.environments import load;"
            "world = load('smac/3m'); world.reset(np.array([3], np.uint64));"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        with playable(tmp_path, WITH_GAME) as folder:
            path = os.pathsep.join([str(folder / "site"), str(ROOT)])
            subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
            assert all_gone(pids)


def test_a_game_that_smac_restarted_cuts_the_episode_off(tmp_path):
    with playable(tmp_path, RESTARTED):
        world = load("smac/3m")
        world.reset(SEEDS[:1])
        assert not world.step(STOP[:1]).truncated[0]
        outcome = world.step(STOP[:1])
        assert (outcome.truncated[0], outcome.terminated[0], outcome.won[0]) == (True, False, 0)
        world.close()


def test_no_second_game_is_started_beside_the_first(tmp_path):
    """SMAC starts one when it is reset before its first episode has ended."""
    with playable(tmp_path, NEW_IN_AN_EPISODE):
        world = load("smac/3m")
        world.reset(SEEDS[:1])
        world.step(STOP[:1])
        assert world.reset(SEEDS[:1]).alive.all()
        world.close()
