"""Which networks of experts are counted and timed, whoever trained them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kd_offline.errors import UsageError
from kd_offline.evaluation.engines import EngineSettings, sampler
from kd_offline.evaluation.latency import expert_targets, latency_targets
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.algorithms.mixed_values import ValueRecipe
from kd_offline.experts.expert import TrainedExpert
from kd_offline.experts.importers.load import load
from kd_offline.experts.value_team import ValueTeam
from kd_offline.runs.complete import complete_run
from kd_offline.testing.factories import environment_spec
from tests.unit.evaluation.test_evaluation_setup import expert, make_run

FOREIGN = Path(__file__).parents[2] / "compatibility" / "foreign_experts"


@pytest.mark.parametrize("algorithm", ["vdn", "qmix"])
def test_value_based_experts_have_a_mixer_for_a_critic(algorithm, tmp_path):
    spec = environment_spec((6, 6, 6))
    recipe = ValueRecipe(environment=spec.id, algorithm=algorithm)
    team = ALGORITHMS.load(algorithm).team(spec, recipe, None, np.random.default_rng(0))
    card = SimpleNamespace(recipe=recipe, mask=None, environment=spec)
    expert = TrainedExpert(card, "", team, "mine")
    (subject,) = expert_targets(expert, spec)
    assert subject.agents == spec.agents
    assert subject.inputs == 6  # features; the last action is memory, the agent's id a bias
    assert len(sampler("torch", subject, EngineSettings(2, tmp_path))(3)) == 3
    parts = expert.value_parts()
    if algorithm == "vdn":
        assert parts == ()
        return
    assert [part.calls for part in parts] == [1]
    assert isinstance(team, ValueTeam)
    assert parts[0].cost == team.model.mixer.cost()
    assert parts[0].cost.parameters == np.sum([p.numel() for p in team.model.mixer.parameters()])


@pytest.mark.parametrize("case", ["epymarl_qmix_rnn", "epymarl_mappo_ns_rnn", "onpolicy_mappo_mlp"])
def test_experts_of_other_libraries_are_counted_and_timed(case, tmp_path):
    folder = FOREIGN / case
    meta = json.loads((folder / "meta.json").read_text())
    n, o, a = meta["n_agents"], meta["obs_dim"], meta["n_actions"]
    state = np.load(folder / "io.npz")
    width = state["state"].shape[-1] if "state" in state else n * o
    spec = environment_spec((o,) * n, (a,) * n, state_width=width)
    library = {"EPyMARL": "epymarl", "on-policy": "on-policy"}[meta["library"]]
    expert = load(f"{library}:{folder}", spec)
    found = expert_targets(expert, spec)
    assert sorted(agent for one in found for agent in one.agents) == sorted(spec.agents)
    for subject in found:
        assert subject.macs > 0
        assert len(sampler("torch", subject, EngineSettings(1, tmp_path))(3)) == 3
    assert np.sum([p.cost.macs for p in expert.value_parts()]) > 0


def test_a_policy_of_ones_own_is_timed_where_it_runs():
    spec = environment_spec((6, 6))
    expert = load("python:tests.unit.evaluation.test_latency_targets:policy", spec)
    with pytest.raises(UsageError, match="time it there"):
        expert_targets(expert, spec)


def policy(spec):
    from kd_offline.rollout.policies import RandomPolicy

    class Counted(RandomPolicy):
        __slots__ = ()
        parameters, macs = 10, 8

    return Counted()


def test_a_reason_in_a_document_names_no_argument_of_python(tmp_path):
    run = make_run(tmp_path / "run", expert(tmp_path / "expert"), motion=False)
    targets, (missing,) = latency_targets(complete_run(run.path))
    assert {target.who for target in targets} == {"student"}
    assert "recorded an expert of its own" in missing.reason
    assert "expert" not in missing.reason.partition("recorded an expert of its own")[2]
