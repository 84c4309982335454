import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kd_offline.seeding import episode_seeds, generator, uniforms

SEEDS = episode_seeds(0, 0, 5, "test")


def test_a_step_for_each_seed_draws_what_each_step_draws_alone():
    steps = np.array([0, 3, 3, 1_000_000, 7])
    together = uniforms(SEEDS, steps, (2, 3), "prey")
    for k, step in enumerate(steps):
        alone = uniforms(SEEDS[k : k + 1], int(step), (2, 3), "prey")
        assert (together[k] == alone[0]).all()


@given(step=st.integers(0, 2**40), batch=st.integers(1, 5))
def test_numbers_depend_on_seed_step_and_purpose_alone(step, batch):
    numbers = uniforms(SEEDS[:batch], step, (4,), "action")
    assert (numbers == uniforms(SEEDS, step, (4,), "action")[:batch]).all()
    assert (numbers != uniforms(SEEDS[:batch], step, (4,), "noise")).any()
    assert (numbers != uniforms(SEEDS[:batch], step + 1, (4,), "action")).any()


def test_numbers_are_uniform():
    numbers = uniforms(episode_seeds(1, 0, 2000, "test"), 5, (50,), "u")
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, 10, (0, 1))[0]
    assert abs(counts / numbers.size - 0.1).max() < 0.005


def test_purposes_are_told_apart_by_their_parts():
    drawn = [generator(0, *p).integers(2**62) for p in (("ab", "c"), ("a", "bc"), ("ab",), ())]
    assert len(set(drawn)) == 4


def test_seeds_of_episodes_do_not_depend_on_where_counting_starts():
    assert (episode_seeds(7, 2, 3, "x") == episode_seeds(7, 0, 5, "x")[2:]).all()
    assert episode_seeds(7, 0, 1000, "x").max() < 2**31
