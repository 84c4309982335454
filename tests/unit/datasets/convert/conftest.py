import numpy as np
import pytest

from kd_offline.testing.factories import environment_spec, full_mask, tiny_dataset


@pytest.fixture(scope="session")
def rich(tmp_path_factory):
    """Three unequal agents, every array, a mask for all episodes and one for each."""
    spec = environment_spec((6, 4, 5), (5, 3, 4))
    by_episode = np.random.default_rng(0).random((7, 3, 6)) < 0.5
    masks = {"full": full_mask(spec), "per.episode": by_episode & full_mask(spec)}
    return tiny_dataset(tmp_path_factory.mktemp("rich") / "rich.zarr", 7, spec=spec, masks=masks)


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """No array that may be absent, and a state of its own."""
    names = ("logits", "embedding", "value", "behaviour_logprob", "action_source")
    final = ("obs", "available_actions", "alive", "value", "state")
    without = [f"steps/{name}" for name in names] + [f"final/{name}" for name in final]
    without += [f"episodes/{name}" for name in ("seed", "noise_level", "expert_id", "won")]
    spec = environment_spec((6, 4), state_width=7)
    path = tmp_path_factory.mktemp("bare") / "bare.zarr"
    return tiny_dataset(path, 5, spec=spec, without=without, masks={})
