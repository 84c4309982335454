"""The operations, called from Python, leave the process of their caller as they found it.

And each of them, asked to resume what it has finished, answers as it did the first time.
"""

from __future__ import annotations

import os
import random
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_offline import distill, evaluate, record, relabel, replay, train
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import MismatchError, StorageError
from kd_offline.experts.algorithms.clipped_policy import PolicyRecipe
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe

SPREAD = "mpe/simple_spread_v3"
SMALL = ExpertArchitecture(trunk=(8,), gru=8, critic_trunk=(8,), critic_gru=8)


def state():
    """Return everything of a process that is everybody's."""
    handled = (s for s in signal.Signals if s not in (signal.SIGKILL, signal.SIGSTOP))
    return {
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "errors": np.geterr(),
        "printing": np.get_printoptions(),
        "warnings": list(warnings.filters),
        "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "signals": {s: signal.getsignal(s) for s in handled},
        "folder": str(Path.cwd()),
        "umask": os.umask(os.umask(0o022)) or os.umask(0o022),
    }


@pytest.fixture
def unchanged():
    """Compare the process before and after, with settings that nobody has by default."""
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(3)
    before = state()
    yield
    after = state()
    torch.set_num_threads(threads)
    torch.set_rng_state(drawn)
    assert [name for name in before if after[name] != before[name]] == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a dataset, a run and an expert once; also imports what is imported once."""
    place = tmp_path_factory.mktemp("made")
    warnings_before = list(warnings.filters)
    _record(place / "d")
    _distill(place)
    _train(place)
    evaluate(place / "run", episodes=4)
    warnings.filters[:] = warnings_before
    return place


def _record(path, **more):
    given = {"episodes": 6, "batch": 3, "threads": 2, "seed": 5} | more
    return record(SPREAD, path, **given)


def _distill(place, **more):
    recipe = distill_recipe(
        hidden=8, seeds=(0, 1), mask="limited", settings={"optimisation.epochs": 2} | more
    )
    return distill(place / "d", place / "run", recipe, resume=True)


def _train(place, **more):
    recipe = PolicyRecipe(
        environment=SPREAD, architecture=SMALL, frames=400, episodes_per_batch=8, minibatches=2
    )
    recipe = recipe.model_copy(update=more)
    return train(recipe, place / "expert", threads=1, resume=True, score_episodes=4)


OPERATIONS = {
    "record": lambda made, new: _record(new / "d"),
    "distill": lambda made, new: distill(
        made / "d", new / "run", distill_recipe(hidden=8, settings={"optimisation.epochs": 1})
    ),
    "train": lambda made, new: train(
        TrainRecipe(environment=SPREAD, architecture=SMALL, frames=200, episodes_per_batch=8),
        new / "expert",
        threads=2,
        score_episodes=4,
    ),
    "evaluate": lambda made, new: evaluate(made / "run", episodes=4),
    "relabel": lambda made, new: relabel(made / "d", 2),
    "replay": lambda made, new: replay(made / "d", 2),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_callers_process_stays_as_it_was(name, made, tmp_path, unchanged):
    OPERATIONS[name](made, tmp_path)


def _files(folder):
    return {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize(
    ("again", "name"), [(lambda p: _record(p / "d", resume=True), "d"), (_distill, "run")]
)
def test_what_is_finished_is_done_already(made, again, name, caplog):
    before, first = _files(made / name), again(made)
    assert again(made) == first
    assert _files(made / name) == before
    assert f"{name} is complete already: nothing was done" in caplog.text


def test_an_expert_that_is_finished_is_done_already(made, caplog):
    before, first = _files(made / "expert"), _train(made)
    assert _train(made) == first
    assert _files(made / "expert") == before
    assert "expert is complete already" in caplog.text


def test_a_kill_before_the_state_is_removed_leaves_a_finished_run(made):
    before = _files(made / "run")
    (made / "run" / "resume").mkdir()
    (made / "run" / "resume" / "seed-0.safetensors").write_bytes(b"left behind")
    _distill(made)
    assert _files(made / "run") == before
    assert not (made / "run" / "resume").exists()


def test_other_settings_are_refused(made):
    with pytest.raises(MismatchError, match=r"recording\.seed"):
        _record(made / "d", resume=True, seed=6)
    with pytest.raises(StorageError, match="another recipe"):
        _distill(made, **{"optimisation.epochs": 3})
    with pytest.raises(StorageError, match="another recipe"):
        _train(made, seed=1)
