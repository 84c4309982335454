"""An expert, a recording, a run of two random teams and an export of one; and their profile."""

import shutil

import numpy as np
import pytest

from kd_offline.deployment.profile import collaboration_profile
from kd_offline.experts import checkpoint
from kd_offline.exports.export import export
from kd_offline.runs.folder import create_run
from kd_offline.schemas.recipes import DistillRecipe, StudentArchitecture
from kd_offline.schemas.run import DatasetReference, SeedResult
from kd_offline.schemas.student import StudentCard
from kd_offline.students import policy as students
from kd_offline.testing.factories import tiny_dataset
from kd_offline.testing.reports import run_manifest
from tests.unit.evaluation.test_evaluation_setup import MASK, SPEC, expert, rows

EPISODES = 16


@pytest.fixture(scope="package")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("collaboration")
    teacher = expert(place / "expert")
    masks = {"limited": np.array(rows(MASK))}
    buffer = tiny_dataset(place / "d.zarr", 20, [25] * 20, spec=SPEC, masks=masks)
    card = StudentCard(
        environment=SPEC,
        architecture=StudentArchitecture(depth=1),
        widths=(8, 6, 4),
        mask="limited",
        mask_features=rows(MASK),
        mask_as_input=False,
        motion=False,
        last_action=True,
        method="kd-marl",
        dataset=buffer.id,
        seeds=(3, 4),
    )
    teams = [students.build(card, np.random.default_rng(seed)) for seed in card.seeds]
    results = tuple(
        SeedResult(
            seed=seed,
            digest=students.digest(team),
            updates=1,
            held_out={"agreement": 0.4 + seed / 10},
            seconds=0.0,
        )
        for seed, team in zip(card.seeds, teams, strict=True)
    )
    update = {
        "dataset": DatasetReference(id=buffer.id, name="tiny", path=str(buffer.path)),
        "environment_kwargs": SPEC.kwargs,
        "results": results,
        "expert": checkpoint.digest(teacher),
        "expert_reference": "trained",
        "recipe": DistillRecipe(mask="limited").model_dump(mode="json"),
    }
    run = create_run(place / "run", run_manifest(seeds=card.seeds).model_copy(update=update))
    students.save(run.students, card, teams)
    export(run.path, place / "out", to="torch", seed=4, precision="int8", least_agreement=0.1)
    return place


@pytest.fixture(scope="package")
def played(place):
    """The profile of the run, with everything played; its evaluation.json stays in a copy."""
    shutil.copytree(place / "run", place / "played")
    return collaboration_profile(place / "played", episodes=EPISODES, expert=place / "expert")


@pytest.fixture
def copy(place, tmp_path):
    """A copy of the run and of the export, to be altered."""
    for name in ("run", "out"):
        shutil.copytree(place / name, tmp_path / name)
    return tmp_path
