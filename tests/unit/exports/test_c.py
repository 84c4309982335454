"""The C export: it builds without a warning, says what NumPy says, and minds its manners."""

import ctypes
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kd_offline.errors import EXIT_USAGE, UsageError
from kd_offline.exports import c_library, c_source, parity_check
from kd_offline.exports.c_library import BuildError
from kd_offline.exports.contract import symbols
from kd_offline.exports.engines import team
from kd_offline.exports.vectors import vectors
from kd_offline.networks.deployed import Affine
from tests.unit.exports.conftest import KINDS, RICH, exported, needs, same

SANITIZED = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
pytestmark = needs("cc", "make")


def written(folder, kind, episodes, *, int8=False, networks=None, agents=3):
    """Write the C of some agents of a kind; return their contracts and the team in NumPy."""
    _, own, every, numpy_team = exported(kind, int8=int8)
    few = episodes.first(20)
    recorded = vectors(numpy_team, parity_check.replay(numpy_team, few), few)
    folder.mkdir()
    chosen = ((networks or own)[:agents], every[:agents], recorded[:agents])
    c_source.write(folder, *chosen, parity_check.TOLERANCE, "a test")
    return every[:agents], numpy_team


@pytest.mark.parametrize(
    ("kind", "int8"),
    [(kind, k % 2 == 1) for k, kind in enumerate(KINDS)] + [(RICH, True)],
    ids=lambda x: str(x),
)
def test_it_says_what_numpy_says(kind, int8, episodes, tmp_path):
    agents, numpy_team = written(tmp_path / "c", kind, episodes, int8=int8)
    steps = c_library.steps(tmp_path / "c", agents, cflags="-O1")
    said = parity_check.replay(team(agents, steps, numpy_team.mask.random_k), episodes)
    found = same(said, parity_check.replay(numpy_team, episodes), episodes)
    assert found.logit_error < 1e-5


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_the_self_test_passes_under_the_sanitizers(int8, episodes, tmp_path):
    agents, _ = written(tmp_path / "c", RICH, episodes, int8=int8, agents=1)
    said = c_library.make(tmp_path / "c", "test", tmp_path / "b", CFLAGS=SANITIZED, CC="gcc")
    assert len(re.findall(r"^agent_\d: 0 of \d+ steps wrong", said, re.MULTILINE)) == len(agents)


def test_the_self_test_finds_altered_weights(episodes, tmp_path):
    networks = exported(RICH)[1]
    head = networks[1].head
    bias = head.bias + np.array([0, 0.01, 0], np.float32)
    wrong = [networks[0], replace(networks[1], head=Affine(head.weight, bias)), networks[2]]
    written(tmp_path / "c", RICH, episodes, networks=wrong)
    with pytest.raises(BuildError, match="make test failed") as raised:
        c_library.make(tmp_path / "c", "test", tmp_path / "b", CFLAGS="-O0")
    assert raised.value.exit_code == 1


def test_bits_do_not_depend_on_the_optimiser(episodes, tmp_path):
    agents, _ = written(tmp_path / "c", RICH, episodes)
    said = [
        parity_check.replay(
            team(agents, c_library.steps(tmp_path / "c", agents, cflags=f), None), episodes
        )
        for f in ("-O0", "-O3")
    ]
    assert np.array_equal(*said)


def test_only_prefixed_symbols_are_visible_and_nothing_is_allocated(episodes, tmp_path):
    agents, _ = written(tmp_path / "c", RICH, episodes)
    c_library.make(tmp_path / "c", "shared", tmp_path / "b")
    library = str(tmp_path / "b" / "libstudents.so")

    def names(option):
        done = subprocess.run(["nm", "-D", option, library], capture_output=True, text=True)
        return {line.split()[-1].split("@")[0] for line in done.stdout.splitlines()}

    functions = ("act", "executed", "reset")
    expected = {f"{agent.symbol}_{name}" for agent in agents for name in functions}
    assert names("--defined-only") - {"_init", "_fini"} == expected
    assert not {"malloc", "calloc", "expf", "tanhf"} & names("--undefined-only")


def test_the_header_states_sizes_mask_and_reset(episodes, tmp_path):
    agents, _ = written(tmp_path / "c", RICH, episodes)
    networks, text = exported(RICH)[1], (tmp_path / "c" / "kd_agent_1.h").read_text()
    facts = dict(re.findall(r"^#define KD_AGENT_1_(\w+) (.+?)(?: /\*.*)?$", text, re.MULTILINE))
    assert facts["INPUTS"] == "3"
    assert facts["SEEN"] == "{0, 2, 3}"
    assert facts["MEMORY"] == str(agents[1].memory_width)
    assert facts["MACS"] == str(networks[1].macs)
    assert facts["PARAMETER_BYTES"] == str(networks[1].parameter_bytes)
    assert facts["RAM_BYTES"] == str(c_source.static_bytes(networks[1]))
    assert "others: 2, 3" in text
    assert "start of every episode" in text


def test_weights_are_exact():
    for value in (0.1, -1.0, 0.0, 1e-40, 3.4e38, 1 / 3):
        single = float(np.float32(value))
        assert float.fromhex(c_source.short(single)) == single
    assert c_source.short(1.0) == "0x1p+0"
    assert c_source.short(-0.75) == "-0x1.8p-1"


def test_rows_lie_in_lanes():
    weight = np.arange(20, dtype=np.float32).reshape(10, 2)
    packed = c_source.interleaved(weight)
    assert packed.shape == (2, 2, 8)
    assert packed[0, 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert packed[1, 1].tolist() == [17, 19, 0, 0, 0, 0, 0, 0]


def test_names_become_symbols_whatever_they_are():
    assert symbols(["agent_0", "Ägent 1"]) == ("kd_agent_0", "kd__gent_1")
    assert symbols(["a-b", "a b", "A_B"]) == ("kd_0_a_b", "kd_1_a_b", "kd_2_a_b")
    assert symbols(["../../etc/x"]) == ("kd_______etc_x",)


def test_hostile_names_stay_within_comments_and_strings(episodes, tmp_path):
    nasty = '*/ int x = 1; /* "\\\n??/'
    _, networks, agents, numpy_team = exported(RICH)
    agents = tuple(
        a.model_copy(update={"agent": nasty, "blocks": {nasty: a.seen}, "actions": a.actions})
        for a in agents
    )
    few = episodes.first(5)
    recorded = vectors(numpy_team, parity_check.replay(numpy_team, few), few)
    (tmp_path / "c").mkdir()
    c_source.write(tmp_path / "c", networks, agents, recorded, parity_check.TOLERANCE, nasty)
    c_library.make(tmp_path / "c", "test", tmp_path / "b", CFLAGS="-O0")
    assert "*/ int" not in (tmp_path / "c" / "kd_agent_0.h").read_text()


def test_a_missing_compiler_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="Debian package gcc-arm-none-eabi") as raised:
        c_library.require("arm-none-eabi-gcc")
    assert raised.value.exit_code == EXIT_USAGE
    with pytest.raises(UsageError, match=r"cc is not installed.* Debian package gcc"):
        c_library.steps(tmp_path, [])


def test_what_hangs_is_stopped_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(c_library, "TIMEOUT_S", 3.0)
    (tmp_path / "Makefile").write_text("test:\n\tsleep 600 & echo $$! > pid; wait\n")
    with pytest.raises(BuildError, match="was stopped after"):
        c_library.make(tmp_path, "test", tmp_path / "b")
    number = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 60
    while running(number) and time.monotonic() < until:
        time.sleep(0.02)
    assert not running(number)


def running(process):
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().split()[2] != "Z"


def test_tanh_is_off_by_at_most_four_parts_in_ten_million(episodes, tmp_path):
    written(tmp_path / "c", KINDS[1], episodes)
    (tmp_path / "c" / "probe.c").write_text(
        '#include "kernels.h"\n'
        "void probe(float *x, int n) { for (int i = 0; i < n; i++) x[i] = kd_tanh(x[i]); }\n"
    )
    library = tmp_path / "probe.so"
    subprocess.run(
        ["cc", "-std=c99", "-O2", "-fPIC", "-shared", "-o", library, tmp_path / "c" / "probe.c"],
        check=True,
        timeout=240,
    )
    given = np.concatenate([np.linspace(-12, 12, 100_001), [1e30, -1e30, 0.0]]).astype(np.float32)
    found = given.copy()
    ctypes.CDLL(str(library)).probe(found.ctypes.data_as(ctypes.c_void_p), len(found))
    assert np.abs(found - np.tanh(given.astype(np.float64))).max() < 4e-7
