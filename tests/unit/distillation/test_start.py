"""Students that go on from those of a run."""

import json

import numpy as np
import pytest
import torch

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.design import design_students
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.rerun import rerun
from kd_offline.errors import CheckpointError, MismatchError, UnknownNameError, UsageError
from kd_offline.recording.record import record
from kd_offline.runs.folder import recipe_of
from kd_offline.students.networks import InputScale
from kd_offline.students.policy import load as load_students
from kd_offline.tracking.base import FunctionObserver

QUICK = {"optimisation.epochs": 1, "threads": 1}


@pytest.fixture(scope="module")
def begun(dataset, tmp_path_factory):
    """A run of two seeds."""
    path = tmp_path_factory.mktemp("start") / "begun"
    recipe = distill_recipe(method="kl", mask="limited", hidden=(8, 6, 4), seeds=2, settings=QUICK)
    distill(dataset, path, recipe)
    return path


def design(buffer, recipe):
    shape = (buffer.spec.n_agents, buffer.spec.obs_width)
    other_scale = InputScale(np.full(shape, 3.0), np.full(shape, 7.0), np.full(shape, 5.0))
    return design_students(buffer, recipe, other_scale)


def test_students_mask_method_and_seeds_are_those_of_the_run(begun):
    recipe = distill_recipe(start=begun, settings=QUICK)
    assert recipe.method == "kl"
    assert recipe.mask == "limited"
    assert recipe.student.hidden == (8, 6, 4)
    assert recipe.seeds == (0, 1)
    assert {name for name, weight in recipe.weights.items() if weight} == {"kl"}


def test_the_run_that_students_start_from_is_not_replaced(begun, dataset):
    before = (begun / "run.json").read_bytes()
    recipe = distill_recipe(start=begun, settings=QUICK)
    with pytest.raises(UsageError, match="is what the students start from"):
        distill(dataset, begun, recipe, overwrite=True)
    assert (begun / "run.json").read_bytes() == before


def test_another_method_brings_its_own_losses(begun):
    recipe = distill_recipe(start=begun, method="bc", settings=QUICK)
    assert {name for name, weight in recipe.weights.items() if weight} == {"ce"}
    assert recipe.terms["ce"]["target"] == "executed"
    assert recipe.student.hidden == (8, 6, 4)


def test_every_team_begins_with_the_weights_and_the_scale_of_its_seed(begun, buffer):
    made = design(buffer, distill_recipe(start=begun, settings=QUICK))
    for students in load_students(begun):
        team = made.team(students.seed)
        for name, values in students.team.state_dict().items():
            torch.testing.assert_close(team.state_dict()[name], values, rtol=0, atol=0)


def test_without_a_start_weights_are_random_and_the_scale_is_the_datasets(begun, buffer):
    made = design(buffer, distill_recipe(mask="limited", hidden=(8, 6, 4)))
    assert not torch.equal(made.team(0).mean, load_students(begun)[0].team.mean)
    assert not torch.equal(
        made.team(0).state_dict()["networks.0.head.weight"],
        load_students(begun)[0].team.state_dict()["networks.0.head.weight"],
    )


def test_the_run_states_what_it_began_with_and_is_repeated_to_the_same_bits(
    begun, dataset, tmp_path
):
    recipe = distill_recipe(start=begun, settings=QUICK)
    first = distill(dataset, tmp_path / "further", recipe)
    stated = json.loads((begun / "run.json").read_text())["results"]
    assert recipe_of(first).start.digests == {str(r["seed"]): r["digest"] for r in stated}
    assert {r.digest for r in first.results}.isdisjoint(r["digest"] for r in stated)
    again = rerun(tmp_path / "further", tmp_path / "again", dataset=dataset, start=begun)
    assert again.identical


def test_an_interrupted_run_continues_to_the_same_bits(begun, dataset, tmp_path):
    recipe = distill_recipe(start=begun, settings=QUICK)
    whole = distill(dataset, tmp_path / "whole", recipe)

    def stop(done, total, unit):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(
            *(dataset, tmp_path / "stopped", recipe), observers=[FunctionObserver(progress=stop)]
        )
    resumed = distill(dataset, tmp_path / "stopped", recipe, resume=True)
    assert [r.digest for r in resumed.results] == [r.digest for r in whole.results]


def test_another_mask_of_the_same_observations_is_allowed(begun, dataset, tmp_path):
    recipe = distill_recipe(start=begun, mask="paper", settings=QUICK)
    assert distill(dataset, tmp_path / "paper", recipe).mask == "paper"


@pytest.mark.parametrize(
    "settings", [{"student.hidden": 8}, {"student.depth": 3}, {"student.last_action": False}]
)
def test_other_networks_are_refused(begun, buffer, settings):
    recipe = distill_recipe(start=begun, settings=QUICK | settings)
    made = design(buffer, recipe)
    with pytest.raises(MismatchError, match="are other networks than those in"):
        made.team(0)


def test_a_seed_that_the_run_lacks_is_refused(begun, buffer):
    recipe = distill_recipe(start=begun, seeds=3, settings=QUICK)
    with pytest.raises(UnknownNameError, match=r"unknown seed of the run .* '2'"):
        design(buffer, recipe)


def test_students_that_were_replaced_are_refused(begun, buffer, dataset, tmp_path):
    recipe = distill_recipe(start=begun, settings=QUICK)
    settings = QUICK | {"objective.agents": "sum"}
    other = distill_recipe(
        method="kl", mask="limited", hidden=(8, 6, 4), seeds=2, settings=settings
    )
    distill(dataset, tmp_path / "other", other)
    moved = recipe.start.model_copy(update={"run": str(tmp_path / "other")})
    with pytest.raises(CheckpointError, match="are not those that the recipe starts from"):
        design(buffer, recipe.model_copy(update={"start": moved}))


def test_a_task_with_other_observations_is_refused(begun, tmp_path):
    task = "mpe/simple_speaker_listener_v4"
    record(task, tmp_path / "other", episodes=20, threads=1, partner=None)
    recipe = distill_recipe(start=begun, mask="limited", settings=QUICK)
    with pytest.raises(MismatchError, match="start from students of such a task, or from none"):
        distill(tmp_path / "other", tmp_path / "run", recipe)


def test_unit_gates_are_refused(begun):
    settings = QUICK | {
        "optimisation.epochs": 4,
        "budget.max_macs": 3000,
        "budget.allocate": "gates",
    }
    with pytest.raises(UsageError, match="unit gates make other networks"):
        distill_recipe(start=begun, settings=settings)


def test_a_recipe_in_a_file_does_not_choose_which_run_is_read(begun, tmp_path):
    recipe = distill_recipe(start=begun, settings=QUICK)
    file = tmp_path / "recipe.json"
    file.write_text(recipe.model_dump_json())
    with pytest.raises(UsageError, match="asks for the run to start from"):
        distill_recipe(file=file)
    assert distill_recipe(file=file, start=begun).start == recipe.start


def test_the_run_is_not_begun_before_the_start_is_checked(begun, dataset, tmp_path):
    recipe = distill_recipe(start=begun, settings=QUICK | {"student.hidden": 8})
    with pytest.raises(MismatchError):
        distill(dataset, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_the_dataset_may_be_another_one(begun, dataset, tmp_path):
    record("mpe/simple_spread_v3", tmp_path / "more", episodes=30, seed=5, threads=1, partner=None)
    recipe = distill_recipe(start=begun, settings=QUICK)
    assert (
        distill(tmp_path / "more", tmp_path / "run", recipe).dataset.id
        == ExpertBuffer.open(tmp_path / "more").id
    )
