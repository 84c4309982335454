import shlex

import pytest

from kd_offline.runs.next_command import code_that_runs, evaluate_command
from kd_offline.testing.reports import run_manifest

SPREAD, MINE = "mpe/simple_spread_v3", "pettingzoo/my.maze:parallel_env"
POLICY = "python:my.policy:make"


def manifest(environment=SPREAD, expert="bundled", **settings):
    update = {"environment": environment, "expert_reference": expert}
    return run_manifest().model_copy(update=update | {"environment_kwargs": settings})


@pytest.mark.parametrize(
    ("environment", "expert", "options", "whose"),
    [
        (SPREAD, "bundled", "", ""),
        (SPREAD, "bundled:large", "", ""),
        (SPREAD, POLICY, f" --expert {POLICY}", f"the expert {POLICY!r}"),
        (SPREAD, "trained", " --expert EXPERT", ""),
        (SPREAD, "", " --expert EXPERT", ""),
        (SPREAD, "epymarl", " --expert epymarl:PLACE", ""),
        (MINE, "bundled", f" --environment {MINE}", f"the environment {MINE!r}"),
        (
            MINE,
            POLICY,
            f" --environment {MINE} --expert {POLICY}",
            f"the environment {MINE!r} and the expert {POLICY!r}",
        ),
    ],
)
def test_what_no_file_may_choose_is_named_as_the_dataset_states_it(
    environment, expert, options, whose
):
    run = manifest(environment, expert)
    assert evaluate_command(run, "my run") == f"kd-offline evaluate 'my run'{options}"
    assert code_that_runs(run).startswith(whose)
    assert ("came with the dataset, and this command runs the code of" in code_that_runs(run)) == (
        bool(whose)
    )


@pytest.mark.parametrize("name", ["a b", "a;rm -r x", "$(rm x)", "`rm x`", "a'b", 'a"b', "!x", "*"])
def test_a_name_is_one_word_of_the_command(name):
    run = manifest(f"pettingzoo/{name}:e", f"python:{name}:p")
    words = shlex.split(evaluate_command(run, "run"))
    assert words[3:] == ["--environment", f"pettingzoo/{name}:e", "--expert", f"python:{name}:p"]


@pytest.mark.parametrize("odd", ["a\nnext: rm -r", "\x1b[2J", "\u202e", "\u3164", "x" * 300])
def test_a_name_that_cannot_be_shown_as_it_is_stays_out_of_the_command(odd):
    run = manifest(f"pettingzoo/{odd}:e", f"python:{odd}:p")
    command = evaluate_command(run, "run")
    assert command == "kd-offline evaluate run --environment NAME --expert EXPERT"
    assert code_that_runs(run).isprintable()


def test_a_name_is_no_option():
    assert "--resume" not in evaluate_command(manifest("--resume:x"), "run")


def test_settings_that_no_file_may_choose_are_shown():
    run = manifest(MINE, layout="/etc/\x1bpasswd", n=3, walls=10**9)
    assert f"{MINE!r} with layout='/etc/\\x1bpasswd', walls='1000000000' came" in code_that_runs(
        run
    )
