"""The first commands of a new user, with nothing more than their names, and the hints they give."""

import re
import shlex

import pytest

from tests.end_to_end.conftest import kd

pytestmark = pytest.mark.usefixtures("undrawn")

LESS = {
    "record": ["--episodes", "60", "--threads", "1"],
    "distill": ["--epochs", "1", "--threads", "1"],
    "evaluate": ["--episodes", "10", "--threads", "1"],
    "report": [],
}


def hint(done):
    (line,) = re.findall(r"^next: (kd-offline .*)$", done.stderr, re.MULTILINE)
    return shlex.split(line)[1:]


def test_four_commands_need_nothing_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = kd("record", *LESS["record"])
    assert done.stdout == "dataset.zarr\n"
    told = "recording 60 episodes of mpe/simple_spread_v3 into dataset.zarr: 1.8 MB at most"
    assert done.stderr.startswith(told)
    words, commands = hint(done), []
    while words[0] != "report":
        commands.append(words)
        done = kd(*words, *LESS[words[0]])
        words = hint(done)
    assert [*commands, words] == [
        ["distill", "dataset.zarr"],
        ["evaluate", "run"],
        ["report", "run"],
    ]
    assert kd(*words).stdout == "run/report.html\n"


def test_hints_can_be_pasted_where_paths_have_spaces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = hint(kd("record", *LESS["record"], "-o", "my data.zarr"))
    assert words == ["distill", "my data.zarr"]
    words = hint(kd(*words, "-o", "my run; echo", *LESS["distill"]))
    assert words == ["evaluate", "my run; echo"]
    kd(*hint(kd(*words, *LESS["evaluate"])))


@pytest.mark.parametrize("name", ["lh-a", "lh", "plain-kl"])
def test_recipes_that_ship_are_found_by_their_names(name, made):
    assert kd("distill", made.dataset, "--recipe", name, "--dry-run").stdout.startswith("{")
