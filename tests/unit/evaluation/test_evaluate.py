import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from kd_offline.errors import UsageError
from kd_offline.evaluation import evaluate as module
from kd_offline.evaluation import evaluation_setup, play
from kd_offline.evaluation.cost import NetworkShape
from kd_offline.evaluation.evaluate import Plan, evaluate, measure
from kd_offline.evaluation.evaluation_setup import EvaluationSetup
from kd_offline.evaluation.play import PolicySet, count_rollouts
from kd_offline.evaluation.rollout import rollout
from kd_offline.rollout.policies import MixedTeam, RandomPolicy
from kd_offline.runs.folder import create_run, open_run
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.sealed_json import sealed_text
from kd_offline.testing.reports import run_manifest
from kd_offline.testing.targets import TargetsEnvironment, TargetsPolicy

EXPERT, WORSE = TargetsPolicy(), TargetsPolicy(8.0, forgets_after=2)
PLAN = Plan(episodes=300, cross_play=True)


def figures(*students: Any, plan: Plan = PLAN, sides: int = 1, ceiling: Any = None) -> Any:
    who = PolicySet(EXPERT, students, ceiling)
    environment = TargetsEnvironment(sides=sides)
    return measure(environment, who, tuple(range(len(students))), plan)


def test_the_expert_as_its_own_student_keeps_everything():
    got = figures(EXPERT, ceiling=WORSE)
    for mode in got.modes.values():
        assert mode.retention.normalised == pytest.approx(1.0)
        assert mode.retention.ratio == pytest.approx(1.0)
        assert mode.retention.of_ceiling is not None
        assert mode.retention.of_ceiling > 1.0
    agreement = got.modes["greedy"].agreement
    assert agreement is not None
    assert (agreement.action, agreement.joint) == (1.0, 1.0)
    assert [e.mean for e in got.cross_play.student_among_experts] == [1.0, 1.0]


def test_random_play_as_a_student_keeps_nothing():
    got = figures(RandomPolicy(drawn=True)).modes["sampled"].retention
    assert got.normalised == pytest.approx(0.0, abs=1e-12)


def test_a_broken_student_keeps_less_and_agrees_less():
    got = figures(WORSE).modes["greedy"]
    assert 0.2 < got.retention.normalised < 0.8
    assert got.retention_intervals.normalised.low < got.retention.normalised
    assert got.retention_intervals.normalised.high > got.retention.normalised
    assert got.agreement.joint < got.agreement.action < 0.9
    assert got.agreement.kl["left"] > 0


def test_seeds_are_reported_one_by_one():
    got = figures(EXPERT, WORSE).modes["greedy"]
    assert [s.seed for s in got.seeds] == [0, 1]
    assert got.seeds[0].normalised == pytest.approx(1.0)
    assert got.student.mean == pytest.approx(np.mean([s.mean for s in got.seeds]))


def test_figures_do_not_depend_on_the_batch():
    one = figures(WORSE, plan=Plan(episodes=60, batch=7))
    two = figures(WORSE, plan=Plan(episodes=60, batch=60))
    assert one.modes == two.modes


def test_sides_are_measured_against_the_experts_other_side():
    team = MixedTeam((EXPERT, RandomPolicy(drawn=True)), (0, 1))
    got = figures(team, sides=2).modes["greedy"]
    assert got.sides["left"].retention.normalised == pytest.approx(1.0)
    assert got.sides["right"].retention.normalised == pytest.approx(0.0, abs=1e-12)
    assert got.win_rate is None
    assert all(side.retention.ratio is None for side in got.sides.values())  # whose win is it?
    spans = [s.expert.mean - s.random.mean for s in got.sides.values()]
    assert got.retention.normalised == pytest.approx(spans[0] / sum(spans))
    assert got.agreement.agents["left"] == 1.0


def test_a_ceiling_counts_for_the_sides_that_it_learned():
    who = PolicySet(EXPERT, (WORSE,), EXPERT, ("left",))
    plan = Plan(episodes=50, modes=("greedy",))
    got = measure(TargetsEnvironment(sides=2), who, (0,), plan).modes["greedy"]
    assert got.sides["left"].retention.of_ceiling is not None
    assert got.sides["right"].ceiling is None
    assert (got.ceiling, got.retention.of_ceiling) == (None, None)
    assert count_rollouts(("left", "right"), who, modes=2) == 2 * (1 + 2 * 2 + 1)


def test_cross_play_finds_the_broken_agent():
    broken = MixedTeam((EXPERT, TargetsPolicy(-8.0)), (0, 1))
    got = figures(broken).cross_play
    assert got.student_among_experts[0].mean == pytest.approx(1.0)
    assert got.student_among_experts[1].mean < 0.6
    assert got.expert_among_students[1].mean == pytest.approx(1.0)
    assert got.expert_among_students[0].mean == got.student_among_experts[1].mean


@pytest.fixture
def setup() -> EvaluationSetup:
    manifest = run_manifest(seeds=(0, 1)).model_copy(update={"environment": "test/targets"})
    return EvaluationSetup(
        manifest=manifest,
        environment=TargetsEnvironment(),
        policies=PolicySet(EXPERT, (EXPERT, WORSE)),
        expert_name="bundled",
        ceiling_name=None,
        expert_shapes=(NetworkShape(4, (64,), 64, 3), NetworkShape(5, (64,), 64, 4)),
        student_shapes=(NetworkShape(3, (8,), 8, 3), NetworkShape(4, (8,), 8, 4)),
    )


@pytest.fixture
def run(setup: EvaluationSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(evaluation_setup, "load_evaluation_setup", lambda *a, **k: setup)
    folder = create_run(tmp_path / "run", setup.manifest)
    # The setup stands for what would be loaded, so there are no students to be read.
    monkeypatch.setattr(
        module,
        "complete_run",
        lambda _: SimpleNamespace(folder=folder, path=folder.path, manifest=setup.manifest),
    )
    return folder.path


def test_evaluation_json_keeps_the_contract(run):
    report = evaluate(run, episodes=50, cross_play=True)
    written = json.loads((run / "evaluation.json").read_text())
    jsonschema.validate(written, EvaluationReport.model_json_schema(mode="validation"))
    jsonschema.validate(written, EvaluationReport.model_json_schema(mode="serialization"))
    assert written["episodes"] == 50
    for mode in ("greedy", "sampled"):
        for policy in ("expert", "student", "random"):
            assert set(written[mode][policy]) == {"mean", "low", "high"}
        assert "ceiling" not in written[mode]
        assert isinstance(written[mode]["retention"]["normalised"], float)
        assert "of_ceiling" not in written[mode]["retention"]
    for policy in ("expert", "student"):
        assert {"parameters", "macs", "flops"} <= set(written["cost"][policy])
    want = written["cost"]["expert"]["flops"] / written["cost"]["student"]["flops"]
    assert written["cost"]["flops_reduction"] == pytest.approx(want)
    assert 0 < written["agreement"] < 1
    assert open_run(run).evaluation() == report
    assert report.command.endswith("--episodes 50 --seed 0 --cross-play")


def test_undefined_retention_is_null_and_present(run, monkeypatch):
    report = evaluate(run, episodes=20, modes=("greedy",))
    assert report.greedy is not None
    scores = report.greedy.retention.model_copy(update={"normalised": None, "ratio": None})
    changed = report.greedy.model_copy(update={"retention": scores})
    text = sealed_text(report.model_copy(update={"greedy": changed}), nulls=False)
    assert json.loads(text)["greedy"]["retention"] == {"normalised": None}
    assert "sampled" not in json.loads(text)


def test_the_same_evaluation_gives_the_same_numbers(run):
    one, two = (evaluate(run, episodes=30, batch=b) for b in (30, 11))
    assert one.model_copy(update={"seconds": 0.0}) == two.model_copy(update={"seconds": 0.0})
    other = evaluate(run, episodes=30, seed=1)
    assert other.greedy != one.greedy


def test_what_evaluations_have_in_common_is_played_once(run, monkeypatch):
    played: list[Any] = []

    def counted(environment, policy, *given, **named):
        played.append(policy)
        return rollout(environment, policy, *given, **named)

    monkeypatch.setattr(play, "rollout", counted)
    alone = evaluate(run, episodes=30)
    baselines: play.Baselines = {}
    of_one = len(played)
    for seed, rollouts in ((0, of_one), (0, of_one // 2), (1, of_one)):
        del played[:]
        report = evaluate(run, episodes=30, seed=seed, baselines=baselines)
        assert len(played) == rollouts
        if seed == 0:
            assert report.model_copy(update={"seconds": alone.seconds}) == alone


def test_an_evaluation_states_its_accelerator_where_one_was_asked_for(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    plain, auto = (evaluate(run, episodes=20, accelerator=name) for name in ("cpu", "auto"))
    assert (plain.accelerator, auto.accelerator) == (None, "cpu")
    assert plain.greedy == auto.greedy
    assert auto.command.endswith("--accelerator auto")
    assert open_run(run).evaluation() == auto
    with pytest.raises(UsageError, match="'cuda' is not there"):
        evaluate(run, episodes=20, accelerator="cuda")


def test_every_policy_is_moved_to_the_accelerator(run, setup, monkeypatch):
    places = []

    class Moving(TargetsPolicy):
        def to(self, device):
            places.append(device.type)

    policies = PolicySet(Moving(), (Moving(), Moving()), Moving())
    everybody = replace(setup, policies=policies)
    monkeypatch.setattr(evaluation_setup, "load_evaluation_setup", lambda *a, **k: everybody)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert evaluate(run, episodes=20, modes=("greedy",), accelerator="auto").accelerator == "cuda"
    assert places == ["cuda"] * 4


@pytest.mark.parametrize(
    "wrong", [{"episodes": 1}, {"seed": -1}, {"modes": ()}, {"modes": ("argmax",)}]
)
def test_wrong_plans_are_refused(wrong):
    with pytest.raises(UsageError, match=r"cannot evaluate .*: give"):
        Plan(**wrong)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a run"):
        evaluate(tmp_path)


def test_mixed_teams_have_returns_and_wins_on_the_same_episodes():
    broken = MixedTeam((EXPERT, TargetsPolicy(-8.0)), (0, 1))
    got = figures(broken)
    score, mixed = got.modes["greedy"], got.cross_play
    assert mixed.returns.student_among_experts[0] == score.expert
    assert mixed.returns.student_among_experts[1] == score.student
    assert mixed.returns.expert_among_students[1] == score.expert
    assert mixed.win_rates.student_among_experts[1] == score.win_rate.student
    assert [seed.won for seed in score.seeds] == [score.win_rate.student.mean]
    two = figures(broken, sides=2).cross_play
    assert two.win_rates is None
    assert len(two.returns.expert_among_students) == 2


def test_an_environment_that_cannot_be_closed_loses_no_results(setup, monkeypatch, caplog):
    def close(self):
        raise OSError("the game is gone")

    monkeypatch.setattr(TargetsEnvironment, "close", close)
    with setup:
        pass
    assert "the game is gone" in caplog.text
