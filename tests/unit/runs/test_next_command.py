import pytest

from kd_offline.runs.next_command import evaluate_command, to_be_named
from kd_offline.testing.reports import run_manifest

SPREAD, MINE = "mpe/simple_spread_v3", "pettingzoo/my.maze:parallel_env"


@pytest.mark.parametrize(
    ("environment", "expert", "options", "stated"),
    [
        (SPREAD, "bundled", "", ""),
        (SPREAD, "bundled:large", "", ""),
        (SPREAD, "python:my.policy:make", " --expert EXPERT", "the expert 'python:my.policy:make'"),
        (SPREAD, "trained", " --expert EXPERT", ""),
        (SPREAD, "", " --expert EXPERT", ""),
        (SPREAD, "epymarl", " --expert epymarl:PLACE", ""),
        (MINE, "bundled", " --environment NAME", f"the environment {MINE!r}"),
        (
            MINE,
            "python:a:b",
            " --environment NAME --expert EXPERT",
            f"the environment {MINE!r} and the expert 'python:a:b'",
        ),
    ],
)
def test_options_name_what_a_file_may_not_choose(environment, expert, options, stated):
    manifest = run_manifest().model_copy(
        update={"environment": environment, "expert_reference": expert}
    )
    assert evaluate_command(manifest, "my run") == f"kd-offline evaluate 'my run'{options}"
    assert to_be_named(manifest) == (
        f"recorded were {stated}: name what you trust" if stated else ""
    )


def test_text_of_others_stays_on_its_line():
    manifest = run_manifest().model_copy(update={"expert_reference": "python:a\nnext: rm -r:b\x1b"})
    assert to_be_named(manifest).isprintable()
    assert "rm" not in evaluate_command(manifest, "run")
