"""Scores of perturbed play: which strengths are tolerated, and which episodes have failed."""

import numpy as np

from kd_offline.robustness.scores import Played, Scores, tolerances
from kd_offline.schemas.evaluation import Estimate
from kd_offline.schemas.robustness import FailureRule, PerturbedPlay, PerturbedReturn


def play(name, strength, kept):
    one = Estimate(mean=0, low=0, high=0)
    share = None if kept is None else Estimate(mean=kept + 0.05, low=kept, high=kept + 0.1)
    score = PerturbedReturn(returns=one, change=one, kept=share)
    return PerturbedPlay(
        perturbation=name, strength=strength, description="", unit="sd", students=score
    )


def test_a_strength_is_tolerated_where_it_and_all_smaller_ones_are_shown_to_keep_enough():
    plays = [play("noise", s, k) for s, k in [(0.3, 0.87), (0.1, 0.95), (1.0, 0.99)]]
    plays += [play("delay", 1, 0.5), play("dead", 1, 0.93), play("drop", 0.1, None)]
    found = {t.perturbation: (t.tolerated, t.exceeded) for t in tolerances(plays, "students", 0.9)}
    assert found == {"noise": (0.1, 0.3), "delay": (0.0, 1.0), "dead": (1.0, None)}


def test_where_a_task_has_wins_episodes_without_one_have_failed_whatever_they_return():
    returns = np.array([[1.0, -1.0]])
    scores = Scores({}, FailureRule(rule="not won"))
    assert scores.failed(Played(returns, np.array([[0.0, 1.0]]))).tolist() == [[True, False]]
    assert scores.failed(Played(returns, None)).tolist() == [[True, True]]
