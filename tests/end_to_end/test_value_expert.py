"""A value-based expert through the command line: train, record, distil, evaluate, report, rerun."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.recipe import distill_recipe
from tests.end_to_end.conftest import SPREAD, kd, kd_json, refused
from tests.unit.distillation.preparing import prepared

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = ["--hidden", "8", "--epochs", "2", "--batch", "16", "--threads", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("values")
    sizes = ["--frames", "800", "--threads", "1", "--score", "0", "--hidden", "8"]
    kd("train", SPREAD, "--algorithm", "vdn", *sizes, "-o", root / "expert")
    kd(
        *("record", SPREAD, "--expert", root / "expert", "-o", root / "d.zarr"),
        *("--episodes", 40, "--batch", 40, "--threads", 1, "--partner", "none"),
    )
    return root


def targets(path, **settings):
    buffer, recipe = ExpertBuffer.open(path), distill_recipe(method="kl", settings=settings)
    return buffer, prepared(buffer, recipe, np.arange(buffer.n_episodes)).targets


def test_students_are_asked_for_the_softened_values(place):
    """From the file alone, in NumPy: centred, in units of their deviation, by the temperature."""
    buffer, found = targets(place / "d.zarr", **{"objective.q_temperature": 0.5})
    assert not buffer.has("steps/logits")
    q = buffer.read("steps/q_values").astype(np.float64)  # all actions are legal here
    gaps = q - q.mean(-1, keepdims=True)
    scores = gaps / np.sqrt((gaps**2).mean((0, 2)))[:, None] / 0.5
    wanted = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    got = found.targets.expert_policy.exp().numpy().reshape(wanted.shape)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert (got.argmax(-1) == q.argmax(-1)).all()


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("kl", ()),
        ("q", ("--dueling",)),
        ("q", ("--set", "terms.regression.loss=huber")),
        ("kd-marl", ("--policy-term", "none", "--set", "switches.q_scale=state")),
        ("bc-argmax", ()),
    ],
)
def test_every_method_learns_from_q_values(place, tmp_path, method, more):
    kd("distill", place / "d.zarr", "-o", tmp_path / "run", "--method", method, *more, *SMALL)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    figures = run["results"][0]["held_out"]
    assert figures["kl"] > 0
    assert 0 < figures["agreement"] <= 1
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ("regression" in rows[0]) == (method == "q")
    assert ("value" in rows[0]) == ("--dueling" in more)


def test_dueling_students_deploy_no_value(place, tmp_path):
    for name, more in (("plain", ()), ("dueling", ("--dueling",))):
        kd("distill", place / "d.zarr", "-o", tmp_path / name, "--method", "q", *more, *SMALL)
    tensors, costs, reports = [], [], []
    for name in ("plain", "dueling"):
        with safe_open(tmp_path / name / "students.safetensors", "pt") as file:
            tensors.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        done = kd_json(
            *("evaluate", tmp_path / name, "--expert", place / "expert", "--episodes", 10),
            *("--threads", 1),
        )
        costs.append(done["cost"]["student"])
        reports.append(kd("report", tmp_path / name, "--markdown").stdout)
    assert costs[0] == costs[1]
    assert {k: v.shape for k, v in tensors[0].items()} == {
        k: v.shape for k, v in tensors[1].items()
    }
    assert any(not tensors[0][k].equal(tensors[1][k]) for k in tensors[0])  # it shaped the trunk
    assert all("same greedy action" in report and "held-out kl" in report for report in reports)
    assert kd_json("rerun", tmp_path / "dueling")["identical"]


def test_what_cannot_be_learned_is_said(place, made, tmp_path):
    words = refused("distill", made.dataset, "-o", tmp_path / "x", "--method", "q", code=2)
    assert "needs steps/q_values" in words
    assert "kl" in words
    words = refused("distill", place / "d.zarr", "-o", tmp_path / "x", "--dueling", code=2)
    assert "regression" in words
    assert not (tmp_path / "x").exists()
