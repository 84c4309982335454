from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.errors import CheckpointError, MismatchError, UnknownNameError, UsageError
from kd_offline.evaluation import evaluation_setup
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.evaluation.evaluation_setup import (
    Contestants,
    EvaluationSetup,
    load_evaluation_setup,
)
from kd_offline.experts import checkpoint
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.load import load
from kd_offline.robustness.perturbed_play import Participants
from kd_offline.runs.complete import complete_run
from kd_offline.runs.folder import RunFolder, create_run, digests
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.students import policy as students
from kd_offline.students.masks import resolve
from kd_offline.testing.reports import run_manifest

NAME = "mpe/simple_spread_v3"
SPEC = environments.load(NAME).spec
MASK = resolve("limited", SPEC).static


def rows(mask: Any) -> Any:
    return None if mask is None else tuple(tuple(map(bool, row)) for row in mask)


def expert(
    folder: Path,
    *,
    seed: int = 0,
    mask: str | None = None,
    motion: bool = False,
    spec: EnvironmentSpec = SPEC,
) -> Path:
    """Save an untrained expert."""
    small = ExpertArchitecture(
        trunk=(16,), gru=16, critic_trunk=(8,), critic_gru=None, motion=motion
    )
    card = ExpertCard(
        environment=spec,
        recipe=TrainRecipe(environment=NAME, architecture=small, mask=mask, seed=seed),
        agents=spec.agents,
        parameters={},
        mask=rows(MASK) if mask else None,
        frames=1,
        seconds=0.0,
        threads=1,
        finished=True,
    )
    team = checkpoint.build(card)
    card = card.model_copy(update={"parameters": team.parameter_counts()})
    checkpoint.save(folder, card, team, {}, {})
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return expert(tmp_path / "expert")


@pytest.fixture
def run(tmp_path: Path, teacher: Path) -> RunFolder:
    return make_run(tmp_path / "run", teacher, motion=False)


def make_run(
    path: Path,
    teacher: Path,
    *,
    motion: bool,
    dataset: Any = None,
    spec: EnvironmentSpec = SPEC,
) -> RunFolder:
    """Create a run of two untrained teams."""
    manifest = run_manifest(seeds=(3, 4))
    manifest = manifest.model_copy(update={"dataset": dataset or manifest.dataset})
    card = StudentCard(
        environment=spec,
        architecture=StudentArchitecture(depth=1, motion=motion),
        widths=(8, 6, 4),
        mask="limited",
        mask_features=rows(MASK),
        mask_as_input=False,
        motion=motion,
        last_action=False,
        method="kd-marl",
        dataset=manifest.dataset.id,
        seeds=(3, 4),
    )
    teams = [students.build(card, np.random.default_rng(seed)) for seed in card.seeds]
    results = tuple(
        result.model_copy(update={"digest": students.digest(team)})
        for result, team in zip(manifest.results, teams, strict=True)
    )
    update = {
        "expert": checkpoint.digest(teacher),
        "expert_reference": "trained",
        "environment_kwargs": spec.kwargs,
        "results": results,
    }
    folder = create_run(path, manifest.model_copy(update=update))
    students.save(folder.students, card, teams)
    return folder


def test_everything_that_plays_is_loaded(run, teacher):
    setup = load_evaluation_setup(complete_run(run.path), expert=teacher)
    assert isinstance(setup, EvaluationSetup)
    assert len(setup.policies.students) == 2
    assert setup.expert_name.startswith("expert (sha256:")
    assert [s.inputs for s in setup.expert_shapes] == [21, 21, 21]
    # limited: landmarks and others 10, velocity, position and landmarks 10, all but velocity 12
    assert [s.inputs for s in setup.student_shapes] == [10, 10, 12]
    assert [s.gru for s in setup.student_shapes] == [8, 6, 4]


def test_hidden_columns_are_dropped_from_every_copy_of_the_observation(tmp_path, teacher):
    moving = make_run(tmp_path / "moving", teacher, motion=True)
    shapes = load_evaluation_setup(complete_run(moving.path), expert=teacher).student_shapes
    assert [s.inputs for s in shapes] == [20, 20, 24]


def test_hidden_columns_are_dropped_from_every_copy_in_experts_too(tmp_path):
    # 10, 10 and 12 of 18 features are seen, and the shared network takes a one-hot id of three.
    for motion, inputs in ((False, [13, 13, 15]), (True, [23, 23, 27])):
        path = expert(tmp_path / str(motion), mask="limited", motion=motion)
        got = load(path, SPEC).actor_shapes()
        assert [s.inputs for s in got] == inputs


def test_a_run_is_evaluated_from_its_folder_alone(run, teacher, tmp_path):
    ceiling = expert(tmp_path / "ceiling", seed=1, mask="limited")
    report = evaluate(run.path, episodes=8, expert=teacher, ceiling=ceiling, modes=("greedy",))
    assert report.greedy is not None
    assert report.greedy.ceiling is not None
    assert report.ceiling_policy is not None
    assert str(tmp_path) not in report.ceiling_policy
    assert [s.seed for s in report.greedy.seeds] == [3, 4]
    assert report.cost.student.agents[2].inputs == 12
    assert run.evaluation() == report


def test_an_expert_that_the_dataset_does_not_name_must_be_given(run):
    with pytest.raises(UsageError, match=r"recorded an expert of its own .*: pass expert with"):
        load_evaluation_setup(complete_run(run.path))


def test_another_expert_than_the_recorded_one_is_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match="the dataset recorded sha256:"):
        load_evaluation_setup(complete_run(run.path), expert=expert(tmp_path / "other", seed=9))


def test_a_ceiling_under_another_mask_is_none(run, teacher, tmp_path):
    wrong = expert(tmp_path / "wrong", seed=2)
    with pytest.raises(MismatchError, match="under the mask 'full', the students see 'limited'"):
        load_evaluation_setup(complete_run(run.path), expert=teacher, ceiling=wrong)


def test_of_several_experts_the_best_is_compared_with_and_the_others_are_beside(
    run, teacher, tmp_path
):
    other = expert(tmp_path / "other", seed=9)
    report = evaluate(run.path, episodes=8, expert=[teacher, other], modes=("greedy", "sampled"))
    for score in (report.greedy, report.sampled):
        ((name, beside),) = score.experts.items()
        assert {name.split()[0], report.expert.split()[0]} == {"expert", "other"}
        gap = score.student.mean - beside.expert.mean
        assert beside.difference.mean == pytest.approx(gap)
        assert beside.difference.low < gap < beside.difference.high
    assert report.greedy.expert.mean >= report.greedy.experts[name].expert.mean
    assert f"--expert {teacher}" in report.command
    assert f"--expert {other}" in report.command
    assert run.evaluation() == report


def test_one_of_several_experts_has_to_be_the_recorded_one(run, tmp_path):
    given = [expert(tmp_path / name, seed=seed) for seed, name in ((8, "a"), (9, "b"))]
    with pytest.raises(CheckpointError, match="none of the 2 experts has the weights sha256:"):
        load_evaluation_setup(complete_run(run.path), expert=given)


@pytest.fixture
def doors(monkeypatch):
    """Of each environment that is opened from now on, how often it was closed."""
    opened: list[list[int]] = []
    load_recorded = environments.load_recorded

    def opening(*given, **named):
        environment: Any = load_recorded(*given, **named)
        closings: list[int] = []
        environment.close = lambda: closings.append(1)
        opened.append(closings)
        return environment

    monkeypatch.setattr(environments, "load_recorded", opening)
    return opened


def contestants(run: RunFolder, teacher: Any, **given: Any) -> Contestants:
    return Contestants(str(run.path), digests(run.manifest()), expert=teacher, **given)


def test_the_environment_is_closed_if_what_is_loaded_after_it_fails(
    run, teacher, tmp_path, doors, monkeypatch
):
    wrong = expert(tmp_path / "wrong", seed=2)
    with pytest.raises(MismatchError, match="under the mask 'full'"):
        contestants(run, teacher, ceiling=wrong).load()
    with pytest.raises(UsageError, match="the accelerator 'abacus' is not there"):
        contestants(run, teacher, accelerator="abacus").load()
    audited = Participants(contestants(run, teacher), (3, 5))  # of which the run has one
    with pytest.raises(UnknownNameError, match="seed of the run '5'"):
        audited.load()
    assert doors == [[1]] * 3
    with contestants(run, teacher).load():
        assert doors[-1] == []
    assert doors[-1] == [1]


def test_a_run_to_compare_with_that_was_replaced_opens_no_environment(run, teacher, doors):
    stated = {"3": "sha256:" + "0" * 64}
    audited = Participants(contestants(run, teacher), (3,), (str(run.path), stated))
    with pytest.raises(MismatchError, match="was replaced while it was compared"):
        audited.load()
    assert doors == []


def test_every_one_of_several_experts_is_moved_to_the_accelerator(
    run, teacher, tmp_path, monkeypatch
):
    places: list[object] = []
    monkeypatch.setattr(evaluation_setup, "moved", lambda policy, device: places.append(policy))
    both = (teacher, expert(tmp_path / "other", seed=9))
    with contestants(run, both).load() as setup:
        wanted = [setup.experts[0], *setup.policies.students, setup.experts[1]]
    assert list(map(id, places)) == list(map(id, wanted))
