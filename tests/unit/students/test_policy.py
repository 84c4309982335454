import numpy as np
import pytest
import torch

from kd_offline.rollout.collect import collect_sampled
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.seeding import episode_seeds, generator
from kd_offline.students import policy as students
from kd_offline.testing.targets import TargetsEnvironment

META = torch.device("meta")


@pytest.mark.parametrize("mask", ["full", "limited", "random"])
def test_students_play_from_another_device_with_arrays_of_the_processor(mask, monkeypatch):
    """On PyTorch's ``meta`` device, where operations that mix devices are errors; see experts."""
    game = TargetsEnvironment()
    seen = np.ones((2, game.spec.obs_width), bool)
    seen[:, 1] = mask != "limited"
    card = StudentCard(
        environment=game.spec,
        architecture=StudentArchitecture(depth=1),
        widths=(8, 6),
        mask=mask,
        mask_features=None if mask == "random" else tuple(map(tuple, seen.tolist())),
        random_k=2 if mask == "random" else None,
        mask_as_input=mask == "random",
        motion=True,
        last_action=True,
        method="kl",
        dataset="sha256:0",
        seeds=(0,),
    )
    policy = students.StudentPolicy(card, 0, students.build(card, generator(0, "test", 0)))
    policy.to(META)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.ones(self.shape, dtype=self.dtype))
    played = collect_sampled(game, policy, episode_seeds(0, 0, 4))
    assert played.steps["actions"].shape[1:] == (4, 2)
    assert {p.device for p in policy.team.parameters()} == {META}
