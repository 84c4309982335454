"""Tasks of several sides through the command line: every figure is of a side, and says of which."""

import json

import numpy as np
import pytest

from kd_offline import environments, load_expert
from kd_offline.datasets import ExpertBuffer
from tests.end_to_end.conftest import kd, kd_json

pytestmark = pytest.mark.usefixtures("undrawn")

ADVERSARY, TAG = "mpe/simple_adversary_v3", "pettingzoo/mpe2.simple_tag_v3:parallel_env"
SIDES = {ADVERSARY: ("adversary", "good"), TAG: ("adversary", "agent")}
TRAIN = ["--frames", "400", "--threads", "1", "--score", "0", "--hidden", "8"]
TRAIN += ["--set", "episodes_per_batch=16"]
RECORD = ["--episodes", "40", "--batch", "40", "--threads", "1", "--partner", "none"]
DISTILL = ["--hidden", "8", "--epochs", "1", "--batch", "16", "--threads", "1"]


@pytest.fixture(scope="module", params=[ADVERSARY, TAG])
def made(request, tmp_path_factory):
    """Dataset, run and evaluation of a task; its expert, and the task's name."""
    task, root = request.param, tmp_path_factory.mktemp("sides")
    expert: object = "bundled"
    method: tuple[str, ...] = ()  # KD-MARL in full, advantages included
    short: tuple[str, ...] = ()
    if task == TAG:
        expert, method, short = root / "expert", ("--method", "kl"), ("--env", "episode_limit=5")
        kd("train", task, *TRAIN, *short, "-o", expert)
    kd("record", task, "--expert", expert, "-o", root / "d.zarr", *RECORD, *short)
    kd("distill", root / "d.zarr", "-o", root / "run", *method, *DISTILL)
    played = ["--episodes", "12", "--threads", "1", "--cross-play"]
    said = kd_json("evaluate", root / "run", "--expert", expert, *played)
    return task, root, expert, said


def test_datasets_name_the_sides(made):
    task, root, *_ = made
    buffer = ExpertBuffer.open(root / "d.zarr")
    returns = buffer.episodes("agent_return")
    found = kd_json("inspect", root / "d.zarr")["side_returns"]
    assert tuple(found) == SIDES[task]
    for k, side in enumerate(SIDES[task]):
        mine = returns[:, np.array(buffer.spec.side_of) == k].sum(1)
        assert found[side] == pytest.approx({"mean": mine.mean(), "std": mine.std()})
        assert f"  {side} " in kd("inspect", root / "d.zarr").stdout
        assert f"{side} {mine.mean():.3f}"[:6] in kd("card", root / "d.zarr").stdout
    kd("inspect", root / "d.zarr", "--html", root / "d.html")
    page = (root / "d.html").read_text()
    assert all(f"mean return of {side}" in page for side in SIDES[task])
    assert all(f"return of side {side}" in page for side in SIDES[task])


def test_each_side_is_kept_against_the_experts_others(made):
    task, root, _, said = made
    report = json.loads((root / "run" / "evaluation.json").read_text())
    for mode in ("greedy", "sampled"):
        sides = report[mode]["sides"]
        assert tuple(sides) == SIDES[task]
        assert tuple(said[mode]["sides"]) == SIDES[task]
        for who in ("expert", "student", "random"):
            total = sum(side[who]["mean"] for side in sides.values())
            assert report[mode][who]["mean"] == pytest.approx(total)
    assert set(report["opponents"]) == set(SIDES[task])
    agents = [agent for side in report["greedy"]["sides"].values() for agent in side["agents"]]
    assert sorted(agents) == sorted(report["cross_play"]["agents"])


def test_swapping_the_only_agent_of_a_side_back_leaves_the_expert(made):
    """Its opponents are the expert's, so nothing of the students is left on the field."""
    task, root, *_ = made
    report = json.loads((root / "run" / "evaluation.json").read_text())
    alone = {ADVERSARY: "adversary_0", TAG: "agent_0"}[task]
    k = report["cross_play"]["agents"].index(alone)
    back = report["cross_play"]["expert_among_students"][k]
    assert back is None or back["mean"] == pytest.approx(1.0)
    sides = report["greedy"]["sides"]
    (side,) = (side for side in sides.values() if side["agents"] == [alone])
    swapped = report["cross_play"]["student_among_experts"][k]
    if swapped is not None:
        assert swapped["mean"] == pytest.approx(side["retention"]["normalised"])


def test_reports_name_the_sides(made):
    task, root, *_ = made
    kd("report", root / "run")
    for text in (
        (root / "run" / "report.html").read_text(),
        kd("report", root / "run", "--markdown").stdout,
    ):
        assert "expert's other sides" in text.replace("&#39;", "'")
        assert all(f"greedy, {side}: students" in text for side in SIDES[task])
    page = (root / "run" / "report.html").read_text()
    assert all(f"kept by side {side}" in page for side in SIDES[task])


def test_an_expert_of_one_side_is_recorded_with_its_opponents(tmp_path):
    expert = tmp_path / "expert"
    kd("train", ADVERSARY, *TRAIN, "--side", "good", "--opponents", "bundled", "-o", expert)
    kd("record", ADVERSARY, "--expert", expert, "-o", tmp_path / "d.zarr", *RECORD)
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    (entry,) = buffer.manifest.experts
    assert list(entry.opponents) == ["adversary"]
    assert "adversary played by bundled" in kd("inspect", tmp_path / "d.zarr").stdout
    world = environments.load(ADVERSARY)
    bundled = load_expert("bundled", world.spec)
    seeds = buffer.episodes("seed").astype(np.uint64)
    first, _ = bundled.act(world.reset(seeds), bundled.start(seeds))
    recorded = buffer.read("steps/logits")[buffer.episodes("offset")]
    np.testing.assert_allclose(recorded[:, 0], first.logits[:, 0], atol=1e-4)
    assert np.abs(recorded[:, 1:] - first.logits[:, 1:]).max() > 0.1
    done = kd_json("verify", tmp_path / "d.zarr", "--relabel", 5, "--expert", expert)
    assert done["ok"]
