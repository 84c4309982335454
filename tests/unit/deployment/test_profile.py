"""Profiles: what they say, from where, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.deployment.document import read_profile
from kd_offline.deployment.profile import collaboration_profile
from kd_offline.errors import (
    CheckpointError,
    FormatVersionError,
    MismatchError,
    StorageError,
    UsageError,
)
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.evaluation.rollout import rollout
from kd_offline.experts.load import load as load_expert
from kd_offline.rollout.policies import MixedTeam
from kd_offline.runs.folder import RunFolder, read_evaluation
from kd_offline.schemas.collaboration import CollaborationProfile
from kd_offline.sealed_json import parse_document, sealed_text
from kd_offline.seeding import episode_seeds
from kd_offline.students.policy import load
from tests.documents import check_document
from tests.sealing import resealed, resealed_tensors
from tests.unit.deployment.conftest import EPISODES
from tests.unit.evaluation.test_evaluation_setup import MASK, NAME, SPEC
from tests.unit.reports.test_robustness import robustness


def test_a_profile_goes_round(place, played):
    file = place / "played" / "profile.json"
    document = json.loads(file.read_text())
    check_document(document, "profile")
    text = sealed_text(played, nulls=False)
    assert parse_document(CollaborationProfile, text, file, "") == played
    assert read_profile(file) == read_profile(file.parent) == played
    assert str(place) not in file.read_text()


def test_agents_are_those_of_the_students(played):
    agent = played.agents[0]
    assert agent.contract.actions == SPEC.action_names[0]
    assert agent.contract.seen == tuple(np.flatnonzero(MASK[0]).tolist())
    for block in agent.blocks:
        indices = [k for start, stop in block.ranges for k in range(start, stop)]
        assert block.ranges == SPEC.blocks["agent_0"][block.name]
        assert block.seen == tuple(k for k in indices if MASK[0][k])
        assert block.visibility == ("seen" if MASK[0][indices[0]] else "hidden")
    starts = [block.ranges[0][0] for block in agent.blocks]
    assert starts == sorted(starts)
    assert agent.cost.flops == 2 * agent.contract.macs
    assert played.envelope.cost.student.agents[0] == agent.cost
    assert played.hidden_state.agents == SPEC.agents
    assert played.groups.sides == SPEC.sides


def test_role_clusters_are_distributions(played):
    clusters = played.groups.clusters
    assert clusters.roles == 6
    for shares in clusters.shares.values():
        assert len(shares) == 6
        assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_mixed_teams_are_the_rollouts_of_mixed_teams(place, played):
    environment = environments.load(NAME)
    teacher, teams = load_expert(place / "expert", SPEC), load(place / "run")
    seeds = episode_seeds(0, 0, EPISODES, "evaluation")

    def returns(*owners):
        done = [
            rollout(environment, MixedTeam((teacher, team), owners), seeds, greedy=True)
            for team in teams
        ]
        return np.mean([one.returns.sum(axis=1).mean() for one in done])

    matrix = played.cross_play
    assert [row.agent for row in matrix.agents] == list(SPEC.agents)
    assert matrix.episodes == EPISODES
    for i, row in enumerate(matrix.agents):
        alone = [int(k == i) for k in range(3)]
        rest = [1 - owner for owner in alone]
        found = row.student_among_experts.returns, row.expert_among_students.returns
        assert [e.mean for e in found] == pytest.approx([returns(*alone), returns(*rest)], rel=1e-5)
        assert row.experts.mean == pytest.approx(returns(0, 0, 0), rel=1e-5)
        assert row.students.mean == pytest.approx(returns(1, 1, 1), rel=1e-5)
        assert found[0].low <= found[0].mean <= found[0].high


def test_limits_name_what_is_not_known_and_its_command(played):
    topics = {(limit.topic, limit.command) for limit in played.limits}
    assert ("mask", "kd-offline evaluate RUN --ceiling CEILING") in topics
    assert ("not measured", "kd-offline bench latency RUN") in topics
    assert ("not measured", "kd-offline export RUN") in topics
    agreement = next(limit.text for limit in played.limits if limit.topic == "agreement")
    assert "75.0 % of recorded held-out decisions" in agreement
    assert f"{100 * played.envelope.played.agreement:.1f} %" in agreement
    assert not any("mixed from experts" in limit.text for limit in played.limits)


def test_an_export_that_is_there_is_not_called_missing(copy):
    shutil.move(copy / "out", copy / "run" / "export-int8")
    made = collaboration_profile(copy / "run", copy / "p.json")
    assert made.export is None
    commands = {limit.command: limit.text for limit in made.limits}
    assert "kd-offline export RUN" not in commands
    assert "as trained" in commands["kd-offline profile RUN --export RUN/export-int8"]


def test_without_an_evaluation_nothing_is_played(copy):
    bare = collaboration_profile(copy / "run", copy / "p.json")
    assert not (copy / "run" / "evaluation.json").exists()
    assert (bare.envelope.played, bare.cross_play) == (None, None)
    commands = {limit.command for limit in bare.limits}
    assert "kd-offline evaluate RUN --cross-play" in commands
    assert bare.agents[0].cost.flops > 0


def test_only_mixed_teams_are_played_beside_an_evaluation_and_kept(copy, place, played):
    run, expert = copy / "run", place / "expert"
    evaluate(run, episodes=20, modes=["greedy"], expert=expert)
    before = (run / "evaluation.json").read_bytes()
    found = collaboration_profile(run, episodes=EPISODES, expert=expert)
    assert (run / "evaluation.json").read_bytes() == before
    assert found.envelope.played.episodes == 20
    assert found.cross_play == played.cross_play
    assert any(limit.text == "sampled play was not measured" for limit in found.limits)
    assert collaboration_profile(run).cross_play == found.cross_play
    assert collaboration_profile(run, copy / "other.json").cross_play is None


def test_an_evaluation_does_not_choose_that_code_of_an_export_is_compiled(copy, place):
    given = {"episodes": EPISODES, "expert": place / "expert", "export": copy / "out"}
    evaluate(copy / "run", **given, modes=["greedy"])
    theirs = RunFolder(copy / "out")
    played = read_evaluation(theirs.path)
    theirs.write_evaluation(played.model_copy(update={"export": "int8 in c"}))
    with pytest.raises(UsageError, match=r"compiles and runs the code in it.* pass engine='c'"):
        collaboration_profile(copy / "run", **given)


def test_the_export_is_what_plays(copy, place):
    evaluate(copy / "run", episodes=10, expert=place / "expert", modes=["greedy"])
    out = copy / "out"
    quiet = collaboration_profile(copy / "run", export=out)
    assert quiet.envelope.played.who == "students"
    assert any("did not play itself" in limit.text for limit in quiet.limits)
    assert quiet.export.precision == "int8"
    given = {"episodes": 10, "expert": place / "expert"}
    loud = collaboration_profile(copy / "run", export=out, **given)
    assert (loud.envelope.played.who, loud.envelope.played.seeds) == ("int8 in numpy", (4,))
    assert loud.envelope.played.held_out_agreement == pytest.approx(0.8)
    assert loud.agents[0].contract.parameter_bytes < loud.agents[0].cost.memory.parameters_fp32
    assert read_profile(out) == loud


def test_altered_students_are_refused(copy):
    file = copy / "run" / "students.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match its own digest"):
        collaboration_profile(copy / "run")
    resealed_tensors(file)
    with pytest.raises(CheckpointError, match=r"not the ones that its run\.json describes"):
        collaboration_profile(copy / "run")


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        ("mask", "paper", CheckpointError, "does not describe the students"),
        ("students", "sha256:" + "0" * 64, MismatchError, "give the run that it was made from"),
        ("precision", "fp64", CheckpointError, "is damaged"),
        ("files", {"torch/x": {"sha256": "0" * 64, "bytes": 1}}, CheckpointError, "lists"),
    ],
)
def test_an_altered_export_is_refused(copy, key, value, error, words):
    file = copy / "out" / "export.json"
    resealed(file, **{key: value})
    with pytest.raises(error, match=words):
        collaboration_profile(copy / "run", export=copy / "out")


def test_an_altered_contract_is_refused(copy):
    file = copy / "out" / "export.json"
    document = json.loads(file.read_text())
    document["agents"][1]["actions"].reverse()
    resealed(file, agents=document["agents"])
    with pytest.raises(CheckpointError, match="it was altered"):
        collaboration_profile(copy / "run", export=copy / "out")


@pytest.mark.usefixtures("played")
def test_an_evaluation_of_another_team_is_refused(copy, place):
    report = RunFolder(place / "played").evaluation()
    other = report.model_copy(update={"mask": "full"})
    RunFolder(copy / "run").write_evaluation(other)
    with pytest.raises(CheckpointError, match="of other students than those of its run"):
        collaboration_profile(copy / "run")


def test_nothing_but_a_profile_is_replaced(copy, played):
    file = copy / "mine.json"
    file.write_text("{}")
    with pytest.raises(StorageError, match="exists: give another path or pass overwrite=True"):
        collaboration_profile(copy / "run", file)
    (copy / "run" / "profile.json").write_text("{}")
    with pytest.raises(StorageError, match="is not a profile"):
        collaboration_profile(copy / "run")
    assert file.read_text() == (copy / "run" / "profile.json").read_text() == "{}"
    made = collaboration_profile(copy / "run", copy / "new.json")
    assert collaboration_profile(copy / "run", overwrite=True) == made
    assert collaboration_profile(copy / "run") == made
    assert collaboration_profile(copy / "run", file, overwrite=True) == made
    file.write_text("{}")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_profile(file)
    file.write_bytes(sealed_text(played.model_copy(update={"version": (2, 0)}), nulls=False))
    with pytest.raises(FormatVersionError, match="install a newer kd-offline"):
        read_profile(file)
    with pytest.raises(UsageError, match="there is no profile"):
        read_profile(copy)


def test_what_students_tolerate_is_in_the_profile_and_among_its_limits(copy):
    folder = RunFolder(copy / "run")
    results = folder.manifest().results
    report = robustness({str(r.seed): r.digest for r in results})
    folder.write_robustness(report)
    profile = collaboration_profile(copy / "run")
    stated = profile.envelope.robustness
    assert stated is not None
    assert stated.tolerances == report.greedy.tolerances
    assert stated.failures == report.greedy.unperturbed.failures
    settings = f"--seeds {','.join(map(str, stated.seeds))} --keep 0.9 --quantile 0.1"
    assert stated.command.endswith(f"--perturbations noise:0.1,fgsm:0.3 {settings}")
    texts = [limit.text for limit in profile.limits if limit.topic == "robustness"]
    assert texts[0].startswith("noise is tolerated up to 0.1 and not at 0.3: tolerated means")
    assert texts[1].startswith("fgsm is not tolerated even at 0.3, the weakest")
    assert texts[2].startswith("dead is tolerated up to 1, the strongest")
    assert "all 2 seeds fail in 15.0 %" in texts[3]
    greedy = report.greedy.model_copy(update={"tolerances": ()})
    folder.write_robustness(report.model_copy(update={"greedy": greedy}))
    limits = collaboration_profile(copy / "run").limits
    text = next(limit.text for limit in limits if limit.topic == "robustness")
    assert text.startswith("what the students tolerate is undefined: unperturbed, they do not")
    (copy / "run" / "robustness.json").unlink()
    folder.write_robustness(report.model_copy(update={"status": "running"}))
    assert collaboration_profile(copy / "run").envelope.robustness is None


def test_profiles_of_before_are_read_and_an_audit_is_named_as_missing(copy):
    profile = collaboration_profile(copy / "run")
    missing = {limit.command for limit in profile.limits if limit.topic == "not measured"}
    assert "kd-offline audit RUN" in missing
    former = profile.model_copy(update={"version": (1, 1)})
    file = copy / "run" / "profile.json"
    file.write_bytes(sealed_text(former, nulls=False))
    assert read_profile(file) == former
