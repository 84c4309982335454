import pytest

from kd_offline.runs.next_command import evaluate_command
from kd_offline.testing.reports import run_manifest

SPREAD, MINE = "mpe/simple_spread_v3", "pettingzoo/my.maze:parallel_env"


@pytest.mark.parametrize(
    ("environment", "expert", "options"),
    [
        (SPREAD, "bundled", ""),
        (SPREAD, "bundled:large", ""),
        (SPREAD, "python:my.policy:make", " --expert python:my.policy:make"),
        (SPREAD, "trained", " --expert FOLDER"),
        (SPREAD, "epymarl", " --expert epymarl:PLACE"),
        (MINE, "bundled", f" --environment {MINE}"),
        (MINE, "python:a:b", f" --environment {MINE} --expert python:a:b"),
        (SPREAD, "python:a; rm -r:b\x1b", r" --expert 'python:a; rm -r:b\x1b'"),
    ],
)
def test_the_next_command_names_what_a_file_may_not_choose(environment, expert, options):
    manifest = run_manifest().model_copy(
        update={"environment": environment, "expert_reference": expert}
    )
    assert evaluate_command(manifest, "my run") == f"kd-offline evaluate 'my run'{options}"
