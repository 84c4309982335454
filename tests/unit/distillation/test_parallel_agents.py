import numpy as np
import pytest
import torch

from kd_offline.distillation.parallel_agents import parallel_agents
from kd_offline.distillation.targets import PackedTargets, Targets
from kd_offline.environments import load
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.students.networks import StudentInputs, StudentTeam

T, B = 5, 4


def team_and_batch(**settings):
    spec = load("mpe/simple_adversary_v3").spec  # agents of different widths
    architecture = StudentArchitecture(hidden=8, **settings)
    inputs = StudentInputs(motion=True, last_action=True)
    team = StudentTeam(spec, architecture, (8, 4, 6), np.random.default_rng(0), inputs)
    draw = torch.Generator().manual_seed(0)
    obs = torch.randn(T, B, 3, spec.obs_width, generator=draw)
    last = torch.eye(spec.action_count)[torch.randint(5, (T, B, 3), generator=draw)]
    return team, obs, last


def packed(obs, last):
    """A batch of episodes of one length; no loss reads anything but the inputs."""
    inputs, taken = obs.flatten(0, 1), last.flatten(0, 1)
    return PackedTargets(Targets(inputs, taken, *[inputs] * 3), [B] * T)


def loss_of(logits, embeddings):
    together = embeddings[0][..., :4] * embeddings[1] * embeddings[2][..., :4]
    return torch.log_softmax(logits, -1).square().mean() + together.mean()


def gradients(team):
    out = [p.grad.clone() for p in team.parameters()]
    team.zero_grad()
    return out


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_gradients_are_those_of_one_graph(threads):
    team, obs, last = team_and_batch()
    logits, embeddings, _ = team(obs, team.start(B), last)
    loss_of(logits, embeddings).backward()
    whole, batch = gradients(team), packed(obs, last)
    with parallel_agents(team, threads) as passes:
        for _ in range(2):  # nothing is left over from one batch to the next
            apart = passes.forward(batch)
            assert torch.equal(apart[0], logits.flatten(0, 1))
            passes.backward(loss_of(*apart[:2]))
            for mine, theirs in zip(gradients(team), whole, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-8)


def test_networks_without_hidden_layers_learn_beside_terms_on_their_embeddings():
    team, obs, last = team_and_batch(family="mlp", depth=0)
    with parallel_agents(team, 1) as passes:
        logits, embeddings, _ = passes.forward(packed(obs, last))
        terms = sum(embedding.square().mean() for embedding in embeddings)
        passes.backward(torch.log_softmax(logits, -1).square().mean() + terms)
    assert all(gradient.abs().sum() > 0 for gradient in gradients(team))


@pytest.mark.parametrize("of_the_caller", [1, 2])
def test_threads_change_no_bit(of_the_caller):
    torch.set_num_threads(of_the_caller)
    team, obs, last = team_and_batch()
    found = []
    for threads in (1, 2, 3):
        with parallel_agents(team, threads) as passes:
            passes.backward(loss_of(*passes.forward(packed(obs, last))[:2]))
        found.append(gradients(team))
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_what_the_loss_does_not_use_gets_no_gradient():
    team, obs, last = team_and_batch()
    with parallel_agents(team, 2) as passes:
        logits, _, _ = passes.forward(packed(obs, last))
        passes.backward(logits.square().mean())
    assert all(p.grad is not None for p in team.parameters())


def test_an_error_in_a_thread_reaches_the_caller():
    team, obs, last = team_and_batch()
    with parallel_agents(team, 2) as passes, pytest.raises(RuntimeError):
        passes.forward(packed(obs[..., :3], last))
