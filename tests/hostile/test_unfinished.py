"""Flipped bits and exchanged files in work that was interrupted: refused, or the same results."""

import shutil

import numpy as np
import pytest

from kd_offline.distillation import distill as distilling
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import KdOfflineError
from kd_offline.experts import checkpoint
from kd_offline.experts.algorithms.clipped_policy import PolicyRecipe
from kd_offline.experts.train import train
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.testing.factories import tiny_dataset
from kd_offline.tracking.base import FunctionObserver

FLIPS = 4  # bits of every file, drawn once
STATE = ("resume/state.json", "resume/state-2.safetensors")


def recipe(**changes):
    settings = {"optimisation.epochs": 3, "optimisation.batch_episodes": 8} | changes
    return distill_recipe(method="kl", hidden=4, seeds=(0, 1), settings=settings)


def training(seed):
    return PolicyRecipe(
        environment="mpe/simple_spread_v3",
        architecture=ExpertArchitecture(trunk=(4,), gru=4, critic_trunk=(4,), critic_gru=4),
        frames=800,
        episodes_per_batch=8,
        minibatches=1,
        epochs=1,
        seed=seed,
    )


def stop_distilling(step, values, series):
    if (series, step) == ("seed 1", 3):
        raise KeyboardInterrupt


def stop_training(step, values, series):
    if values["train/iteration"] == 3:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Two distillations and two trainings, interrupted; the second ones have other recipes."""
    place = tmp_path_factory.mktemp("begun")
    tiny_dataset(place / "d.zarr", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distilling, "SAVE_EVERY_S", -1.0)
        for name, changes in (("run", {}), ("other run", {"optimisation.learning_rate": 0.1})):
            chosen, watching = recipe(**changes), [FunctionObserver(metrics=stop_distilling)]
            with pytest.raises(KeyboardInterrupt):
                distill(place / "d.zarr", place / name, chosen, observers=watching)
    for name, seed in (("expert", 0), ("other expert", 1)):
        with pytest.raises(KeyboardInterrupt):
            train(
                training(seed),
                place / name,
                threads=1,
                observers=[FunctionObserver(metrics=stop_training)],
                score_episodes=0,
            )
    return place


def go_on(place, folder):
    """Return what comes of the interrupted work, or None where it is refused."""
    try:
        if folder == "run":
            done = distill(place / "d.zarr", place / folder, recipe(), resume=True)
            return [(result.digest, result.best_epoch) for result in done.results]
        train(training(0), place / folder, threads=1, resume=True, score_episodes=0)
        return checkpoint.digest(place / folder)
    except KdOfflineError:
        return None


@pytest.fixture(scope="module")
def wanted(begun, tmp_path_factory):
    """What comes of the first ones where nothing was altered."""
    place = tmp_path_factory.mktemp("wanted") / "copy"
    shutil.copytree(begun, place)
    done = {folder: go_on(place, folder) for folder in ("run", "expert")}
    assert all(done.values())
    return done


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        *(("run", file) for file in ("run.json", "metrics.jsonl", *STATE)),
        ("run", "resume/seed-0.safetensors"),
        *(("expert", file) for file in ("expert.json", "training.safetensors", "curve.jsonl")),
    ],
)
def test_flipped_bits_are_refused_or_change_nothing(folder, file, begun, wanted, tmp_path):
    content = (begun / folder / file).read_bytes()
    refused = 0
    for k, bit in enumerate(np.random.default_rng(5).integers(8 * len(content), size=FLIPS)):
        place = tmp_path / str(k)
        shutil.copytree(begun, place)
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << (bit % 8)
        (place / folder / file).write_bytes(altered)
        found = go_on(place, folder)
        assert found in (None, wanted[folder]), f"bit {bit}"
        refused += found is None
    assert refused


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        ("run", STATE[:1]),
        ("run", STATE[1:]),
        ("run", STATE),
        ("run", ["resume/seed-0.safetensors"]),
        ("run", ["metrics.jsonl"]),
        ("expert", ["training.safetensors"]),
        ("expert", ["curve.jsonl"]),
        ("expert", ["expert.json"]),
    ],
)
def test_what_another_recipe_left_is_refused(folder, files, begun, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(begun, place)
    for file in files:
        shutil.copyfile(place / f"other {folder}" / file, place / folder / file)
    assert go_on(place, folder) is None
