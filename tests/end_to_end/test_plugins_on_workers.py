"""Parts of another package in workers: they make what one process makes."""

import pytest

from kd_offline import distill, distill_recipe, evaluate, record
from kd_offline.experts import checkpoint
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.train_all import train_all
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.runs.folder import STUDENTS

RING = "ring"
SMALL = {"frames": 2 * 4 * 12, "episodes_per_batch": 4, "architecture.trunk": (4,)}
STUDENT = {"student.family": "min_gru", "student.hidden": 4, "optimisation.epochs": 1}
TERM = {"weights.reward_prediction": 0.5, "threads": 1, "seeds": (0, 1)}


def uniform(spec):
    """Return an expert of a module of the user's own."""
    return RandomPolicy()


def all_parts(place, folder):
    """Return what comes of an environment, an algorithm, a family and a term of the package."""
    recipes = {
        f"{seed}": train_recipe(RING, algorithm="baseline", settings=SMALL | {"seed": seed})
        for seed in (0, 1)
    }
    train_all(recipes, folder / "experts", on=place, threads=1, score_episodes=2)
    how = {"episodes": 8, "batch": 4, "threads": 1, "partner": None, "on": place}
    expert, own = str(folder / "experts" / "0"), f"python:{__name__}:uniform"
    ids = [
        record(RING, folder / f"{number}.zarr", expert=reference, **how).id
        for number, reference in enumerate((expert, own))
    ]
    recipe = distill_recipe(method="kl", settings=STUDENT | TERM)
    distill(folder / "0.zarr", folder / "run", recipe, on=place)
    report = evaluate(
        folder / "run",
        environment=RING,
        expert=expert,
        episodes=8,
        batch=4,
        modes=("greedy",),
        on=place,
    )
    weights = [(folder / "experts" / name / checkpoint.WEIGHTS).read_bytes() for name in recipes]
    return ids, weights, (folder / "run" / STUDENTS).read_bytes(), report.greedy


@pytest.fixture
def alone(plugins, tmp_path):
    return all_parts("serial", tmp_path / "alone")


def test_processes_find_them(alone, tmp_path):
    assert all_parts("processes:2", tmp_path / "processes") == alone
