"""Every algorithm of value decomposition, from training to a recording that passes verify."""

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.format.layout import MIXERS, MixerKind
from kd_offline.datasets.validation.integrity import verify
from kd_offline.experts.recipe import recipe_from
from kd_offline.experts.train import train
from kd_offline.recording.record import record

BOARD = {"size": 3, "n_predators": 3, "n_prey": 1, "view": 3, "episode_limit": 8}
RECIPE = {
    "environment": "grid/predator_prey",
    "environment_kwargs": BOARD,
    "frames": 120,
    "episodes_per_batch": 8,
    "architecture": {"trunk": (8,), "gru": 8},
    "q_learning": {"updates_per_batch": 2, "batch_episodes": 8},
}


@pytest.mark.parametrize("algorithm", ["vdn", "qmix", "qatten", "qplex", "wqmix", "qtran"])
def test_a_recording_keeps_what_its_kind_of_mixer_guarantees(algorithm, tmp_path):
    train(recipe_from(RECIPE | {"algorithm": algorithm}), tmp_path / "e", score_episodes=0)
    path = tmp_path / "d.zarr"
    record(
        "grid/predator_prey",
        path,
        expert=str(tmp_path / "e"),
        episodes=12,
        threads=1,
        environment_kwargs=BOARD,
    )
    assert verify(path).problems == ()
    buffer = ExpertBuffer.open(path)
    (expert,) = buffer.manifest.experts
    kind = MIXERS[expert.architecture["mixer"]]
    total, best = buffer.read("steps/q_tot"), buffer.read("steps/q_tot_max")
    assert (total < best - 1e-3).any(), "noise plays actions that are not greedy"
    assert (total <= best + 1e-4 * (1 + np.abs(best))).all()
    assert (algorithm == "vdn") == (kind is MixerKind.ADDITIVE)
    assert (algorithm in ("qplex", "qtran")) == (kind is MixerKind.IGM)
