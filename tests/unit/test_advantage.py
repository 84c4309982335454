import pytest
import torch

from kd_offline.advantage import generalised_advantage, side_mean, side_statistics, waiting

GAMMA, LAMBDA = 0.9, 0.5


def advantages(terminated, truncated, *, bootstrap, horizon=None):
    """Three steps, one episode, one agent: rewards 1, 2, 3; values 0.5, 1, 2; last value 4."""
    return generalised_advantage(
        torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1),
        torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1),
        torch.tensor([[4.0]]),
        torch.tensor(terminated).view(3, 1),
        torch.tensor(truncated).view(3, 1),
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        bootstrap_on_truncation=bootstrap,
        horizon=horizon,
    ).flatten()


NEVER, LAST = [False, False, False], [False, False, True]
# residuals: 1 + .9 * 1 - .5 = 1.4; 2 + .9 * 2 - 1 = 2.8; 3 + .9 * future - 2
CASES = [
    (NEVER, LAST, True, 3 + 0.9 * 4 - 2),
    (NEVER, LAST, False, 1.0),
    (LAST, NEVER, True, 1.0),
    (LAST, NEVER, False, 1.0),
]


@pytest.mark.parametrize(("terminated", "truncated", "bootstrap", "last"), CASES)
def test_backward_recursion(terminated, truncated, bootstrap, last):
    second = 2.8 + 0.45 * last
    expected = [1.4 + 0.45 * second, second, last]
    got = advantages(terminated, truncated, bootstrap=bootstrap)
    torch.testing.assert_close(got, torch.tensor(expected))


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [
        (1, [1.4, 2.8, 4.6]),
        (2, [1.4 + 0.45 * 2.8, 2.8 + 0.45 * 4.6, 4.6]),
        (9, [1.4 + 0.45 * (2.8 + 0.45 * 4.6), 2.8 + 0.45 * 4.6, 4.6]),
    ],
)
def test_a_horizon_cuts_the_sum(horizon, expected):
    got = advantages(NEVER, LAST, bootstrap=True, horizon=horizon)
    torch.testing.assert_close(got, torch.tensor(expected))


def test_nothing_flows_over_an_end():
    torch.manual_seed(0)
    reward, value = torch.randn(6, 1, 2), torch.randn(6, 1, 2)
    ends = torch.tensor([False, False, True, False, False, True]).view(6, 1)
    settings = {"gamma": GAMMA, "gae_lambda": LAMBDA, "bootstrap_on_truncation": False}
    final = torch.zeros(1, 2)
    whole = generalised_advantage(reward, value, final, ends, torch.zeros_like(ends), **settings)
    first = generalised_advantage(
        reward[:3], value[:3], final, ends[:3], torch.zeros_like(ends[:3]), **settings
    )
    torch.testing.assert_close(whole[:3], first)


def test_side_mean():
    reward = torch.tensor([1.0, 3.0, 10.0])
    torch.testing.assert_close(
        side_mean(reward, torch.tensor([0, 0, 1])), torch.tensor([2.0, 2.0, 10.0])
    )


def test_agents_wait_only_where_somebody_takes_turns():
    leaves = [[1, 1], [1, 0], [1, 0]]
    turns = [[1, 0], [0, 1], [1, 0]]
    late = [[1, 0], [1, 0], [1, 1]]
    alive = torch.tensor([leaves, turns, late]).bool().transpose(0, 1)
    ended = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
    waits = waiting(alive, ended)
    assert not waits[:, 0].any()
    torch.testing.assert_close(waits[:, 1], ~alive[:, 1])
    torch.testing.assert_close(waits[:, 2], ~alive[:, 2])
    ended[1] = True  # the third agent's late step is behind the end, and counts nothing
    assert not waiting(alive, ended)[:, 2].any()


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("truncated", [False, True])
def test_a_wait_joins_two_decisions_and_what_the_critic_says_of_it_counts_nothing(
    bootstrap, truncated
):
    """Decisions at steps 0, 3 and 4 of six; worked out by hand as a semi-Markov process."""
    reward = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    value = torch.tensor([0.5, 99.0, -99.0, 1.0, 2.0, 77.0])
    waits = torch.tensor([False, True, True, False, False, True])
    last = torch.tensor([False] * 5 + [True]).view(6, 1)
    got = generalised_advantage(
        reward.view(6, 1, 1),
        value.view(6, 1, 1),
        torch.tensor([[8.0]]),
        last & (not truncated),
        last & truncated,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        bootstrap_on_truncation=bootstrap,
        waits=waits.view(6, 1, 1),
    ).flatten()
    after = 8.0 if truncated and bootstrap else 0.0
    fourth = 5 + 0.9 * 6 + 0.81 * after - 2
    third = 4 + 0.9 * 2 - 1 + 0.9 * 0.5 * fourth
    first = 1 + 0.9 * 2 + 0.81 * 3 + 0.729 * 1 - 0.5 + 0.729 * 0.5 * third
    torch.testing.assert_close(got[~waits], torch.tensor([first, third, fourth]))


def test_without_waits_advantages_keep_their_bits():
    torch.manual_seed(0)
    reward, value, final = torch.randn(9, 4, 3), torch.randn(9, 4, 3), torch.randn(4, 3)
    ends = torch.zeros(9, 4, dtype=torch.bool)
    ends[-1] = True
    settings = {"gamma": GAMMA, "gae_lambda": LAMBDA, "bootstrap_on_truncation": True}
    plain = generalised_advantage(reward, value, final, ends, ~ends & False, **settings)
    none = torch.zeros(9, 4, 3, dtype=torch.bool)
    same = generalised_advantage(reward, value, final, ends, ~ends & False, **settings, waits=none)
    assert torch.equal(plain, same)


def test_statistics_are_of_a_side_and_of_what_has_weight():
    """Side 0 has 1, 3 and 5, side 1 has 100 and 300; nothing else counts."""
    values = torch.tensor([[1.0, 3.0, 100.0], [5.0, 70.0, 300.0]])
    weight = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    mean, deviation = side_statistics(values, weight, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(mean, torch.tensor([3.0, 3.0, 200.0]))
    torch.testing.assert_close(deviation, torch.tensor([(8 / 3) ** 0.5] * 2 + [100.0]))


def test_a_side_without_weight_is_left_as_it_is():
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    values = torch.tensor([[1.0, 50.0], [3.0, 90.0]])
    mean, deviation = side_statistics(values, weight, torch.tensor([0, 1]))
    assert mean.tolist() == [2.0, 0.0]
    assert deviation.tolist() == [1.0, 1.0]
