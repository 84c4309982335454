import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.seeding import episode_seeds
from kd_offline.students.networks import InputScale, StudentInputs, StudentTeam, one_hot

SPEC = environments.load("mpe/simple_adversary_v3").spec  # widths 8, 10, 10
PLAIN = StudentInputs()


def team(inputs=PLAIN, widths=(4, 6, 8), seen=None, **architecture):
    asked, rng = StudentArchitecture(**architecture), np.random.default_rng(0)
    return StudentTeam(SPEC, asked, widths, rng, inputs, seen)


def observations(steps=5, batch=3):
    rng = np.random.default_rng(1)
    real = np.arange(10) < np.array(SPEC.obs_widths)[:, None]
    return torch.from_numpy((rng.standard_normal((steps, batch, 3, 10)) * real).astype(np.float32))


def test_every_agent_has_its_own_width():
    model = team()
    assert [s.gru for s in model.shapes] == [4, 6, 8]
    assert [s.inputs for s in model.shapes] == [8, 10, 10]
    logits, embeddings, _ = model(model.prepare(observations(), torch.ones(3, 10)), model.start(3))
    assert logits.shape == (5, 3, 3, 5)
    assert [e.shape[-1] for e in embeddings] == [4, 6, 8]
    assert sum(p.numel() for p in model.parameters()) == sum(model.parameters_per_agent)


@pytest.mark.parametrize("motion", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("last_action", [False, True])
@pytest.mark.parametrize("kind", ["gru", "mlp"])
def test_one_unroll_equals_single_steps(motion, mask, last_action, kind):
    model = team(StudentInputs(mask, motion, last_action), kind=kind)
    model.scale_inputs(InputScale(*(np.full((3, 10), x) for x in (0.1, 2.0, 0.3))))
    obs, seen = observations(), torch.ones(3, 10)
    actions = np.random.default_rng(2).integers(0, 5, (5, 3, 3))
    last = torch.stack([one_hot(None if t == 0 else actions[t - 1], (3, 3, 5)) for t in range(5)])
    prepared = model.prepare(obs, seen)
    whole, _, _ = model(prepared, model.start(3), last)
    memory, steps = model.start(3), []
    for t in range(5):
        logits, _, memory = model(prepared[t : t + 1], memory, last[t : t + 1])
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps), whole)


def test_what_a_mask_hides_never_matters():
    model = team(StudentInputs(motion=True))
    seen = torch.zeros(3, 10)
    seen[:, 2:5] = 1
    obs = observations()
    other = obs + (1 - seen) * 7
    outputs = [model(model.prepare(x, seen), model.start(3))[0] for x in (obs, other)]
    assert torch.equal(*outputs)
    assert not torch.equal(model(model.prepare(obs + seen, seen), model.start(3))[0], outputs[0])


def test_motion_is_the_scaled_change_and_zero_at_first():
    model = team(StudentInputs(motion=True))
    model.scale_inputs(InputScale(*(np.full((3, 10), x) for x in (0.0, 2.0, 0.5))))
    obs = observations()
    prepared = model.prepare(obs, torch.ones(3, 10)).flatten(0, 1)
    taken = model._own_inputs(1, model.packed(prepared, None, [3] * 5), None).view(5, 3, 20)
    assert (taken[0, :, 10:] == 0).all()
    torch.testing.assert_close(taken[1:, :, 10:], (obs[1:, :, 1] - obs[:-1, :, 1]) / 0.5)


@pytest.mark.parametrize("aligner", ["identity", "linear"])
@pytest.mark.parametrize("inputs", [StudentInputs(), StudentInputs(True, True, True)])
@pytest.mark.parametrize(("kind", "depth"), [("gru", 2), ("gru", 0), ("mlp", 1), ("mlp", 0)])
def test_hidden_columns_are_left_out_and_change_nothing(kind, depth, inputs, aligner):
    """Outputs and gradients are as if they were computed."""
    seen = np.random.default_rng(3).random((3, 10)) < 0.5
    seen[0] = True
    mask = torch.from_numpy(seen.astype(np.float32))
    settings = {"kind": kind, "depth": depth, "aligner": aligner}
    whole, part = team(inputs, **settings), team(inputs, seen=seen, **settings)
    obs, taken = observations(), torch.eye(5)[torch.arange(45).view(5, 3, 3) % 5]
    found = []
    for model in (whole, part):
        logits, embeddings, _ = model(model.prepare(obs, mask), model.start(3), taken)
        logits.square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([logits.detach(), *(e.detach() for e in embeddings), *gradients])
    torch.testing.assert_close(*found)


def test_packed_episodes_of_unequal_lengths_give_what_each_gives_alone():
    model = team(StudentInputs(motion=True, last_action=True))
    obs = model.prepare(observations(), torch.ones(3, 10))
    taken = torch.eye(5)[torch.arange(len(obs) * 9).view(len(obs), 3, 3) % 5]
    lengths, longest = (2, 5, 4), [1, 2, 0]
    rows = [(t, e) for t in range(5) for e in longest if t < lengths[e]]
    steps, episodes = map(list, zip(*rows, strict=True))
    sizes = [3, 3, 2, 2, 1]
    inputs = model.packed(obs[steps, episodes], taken[steps, episodes], sizes)
    found = [model.agent(i, inputs) for i in range(3)]
    logits, embeddings, _ = model(obs, model.start(3), taken)
    together = model.joined([each.outputs for each in found])
    torch.testing.assert_close(together, logits[steps, episodes])
    for own, all_steps in zip(found, embeddings, strict=True):
        torch.testing.assert_close(own.embedding, all_steps[steps, episodes])


def test_constant_features_keep_their_scale():
    model = team()
    model.scale_inputs(InputScale(np.ones((3, 10)), np.zeros((3, 10)), np.zeros((3, 10))))
    assert (model.std == 1).all()
    assert (model.motion_std == 1).all()


def test_a_linear_aligner_starts_as_the_identity():
    seeds = episode_seeds(0, 0, 3)
    assert len(seeds) == 3
    plain, aligned = team(), team(aligner="linear")
    obs = plain.prepare(observations(), torch.ones(3, 10))
    torch.testing.assert_close(plain(obs, plain.start(3))[0], aligned(obs, aligned.start(3))[0])
