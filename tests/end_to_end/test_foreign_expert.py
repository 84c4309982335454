"""From a checkpoint of another library to distilled students."""

import json
import re
import shlex

import numpy as np
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.datasets import ExpertBuffer, verify
from tests.compatibility.test_foreign_experts import HERE, checkpoint
from tests.unit.experts.importers.layouts import spread_mappo


def run(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done


def recorded(path, expert, *more):
    task = ("record", "mpe/simple_spread_v3", "-o", path, "--expert", expert)
    sizes = ("--episodes", 40, "--batch", 20, "--threads", 1, "--partner", "none")
    done = run(*task, *sizes, *more)
    assert verify(path).ok
    return done, ExpertBuffer.open(path)


def test_record_distil_and_evaluate(tmp_path):
    expert = f"jaxmarl:{checkpoint(HERE / 'jaxmarl_mappo_rnn', 'jaxmarl')}"
    done, buffer = recorded(tmp_path / "d.zarr", expert)
    assert "did not find a critic" in done.stderr
    entry = buffer.manifest.experts[0]
    assert (entry.kind, entry.reference, entry.value_of) == ("mappo", "jaxmarl", "")
    assert entry.recipe is not None
    assert entry.recipe.inputs == ("obs",)
    assert not buffer.has("steps/value")
    assert str(HERE) not in (tmp_path / "d.zarr" / "manifest.json").read_text()
    run(
        *("distill", tmp_path / "d.zarr", "-o", tmp_path / "run", "--method", "kl"),
        *("--seeds", 1, "--epochs", 1, "--threads", 1),
    )
    run("evaluate", tmp_path / "run", "--expert", expert, "--episodes", 10, "--threads", 1)
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["cost"]["expert"]["parameters"] == 3 * entry.parameters


POLICY = """
import numpy as np
from kd_offline.types import PolicyOutput
class Policy:
    parameters = macs = 5
    def start(self, seeds):
        return None
    def act(self, view, memory):
        logits = np.zeros(view.available_actions.shape, np.float32)
        logits[..., 1] = view.obs[..., 0]
        return PolicyOutput(logits), memory
def make(spec):
    return Policy()
"""


def test_the_command_that_distill_prints_evaluates_a_recording_of_a_python_expert(
    tmp_path, monkeypatch
):
    (tmp_path / "policy_of_mine.py").write_text(POLICY)
    monkeypatch.syspath_prepend(tmp_path)
    recorded(tmp_path / "d.zarr", "python:policy_of_mine:make")
    done = run(
        *("distill", tmp_path / "d.zarr", "-o", tmp_path / "the run", "--method", "kl"),
        *("--seeds", 1, "--epochs", 1, "--threads", 1),
    )
    command, note = re.findall(r"^next: (.*)\n  (.*)$", done.stderr, re.MULTILINE)[0]
    assert note == (
        "the expert 'python:policy_of_mine:make' came with the dataset, and this command runs the "
        "code of it: use it only if you trust it"
    )
    program, *words = shlex.split(command)
    assert program == "kd-offline"
    run(*words, "--episodes", 10, "--threads", 1)
    assert (tmp_path / "the run" / "evaluation.json").is_file()


def test_values_are_calibrated_and_resuming_finds_the_same(tmp_path):
    spread_mappo(tmp_path / "models")
    expert = f"epymarl:{tmp_path / 'models'}"
    done, buffer = recorded(tmp_path / "a.zarr", expert)
    assert "values were calibrated on 100 trial episodes" in done.stderr
    entry = buffer.manifest.experts[0]
    assert entry.calibration is not None
    again = recorded(tmp_path / "b.zarr", expert, "--resume")[1]
    assert again.manifest.id == buffer.manifest.id
    (tmp_path / "models" / "expert.toml").write_text('value_units = "raw"\n')
    raw = recorded(tmp_path / "c.zarr", expert)[1]
    value = raw.read("steps/value") * entry.calibration.scale + entry.calibration.offset
    np.testing.assert_allclose(buffer.read("steps/value"), value, rtol=1e-4, atol=1e-4)
    assert raw.manifest.experts[0].calibration is None


def test_q_values_are_recorded_in_place_of_logits(tmp_path):
    expert = f"jaxmarl:{checkpoint(HERE / 'jaxmarl_qmix_rnn', 'jaxmarl')}"
    buffer = recorded(tmp_path / "d.zarr", expert, "--noise", "none")[1]
    assert buffer.has("steps/q_values")
    assert not buffer.has("steps/logits")
    assert buffer.manifest.experts[0].capture.output == "q_values"
    greedy = buffer.read("steps/q_values").argmax(-1) == buffer.read("steps/actions")
    assert 0.9 < greedy.mean() < 1
    logprob = np.exp(buffer.read("steps/behaviour_logprob"))
    np.testing.assert_allclose(logprob, np.where(greedy, 0.96, 0.01), rtol=1e-4)
