"""Let a weaker team play some agents in part of the episodes, while all labels are the expert's.

A student under a mask makes systematic mistakes: it guesses, commits and repeats itself. Random
noise does not show how its team-mates should respond. In a share of the episodes some agents are
therefore played by a *partner*, usually the students of an earlier distillation, while the expert
with its memory labels every step. This is dataset aggregation (Ross et al., 2011), decided when the
file is recorded, so that distillation later needs nothing but the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.distributions.base import Played, either
from kd_offline.errors import MismatchError
from kd_offline.networks.files import warn_unsealed
from kd_offline.rollout.play import Behaviour, Choice
from kd_offline.runs.complete import complete_run
from kd_offline.runs.folder import RUN
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.sealed_json import digest
from kd_offline.seeding import uniforms
from kd_offline.students.file import REMEDY, STUDENTS, StudentsFile, read_students
from kd_offline.students.policy import StudentPolicy, restore
from kd_offline.types import (
    Array,
    BoolArray,
    FloatArray,
    IntArray,
    SeedArray,
    View,
)

AGENTS = 0.75
"""Probability that a partner plays an agent, where nothing else is said."""
BUNDLED = {
    "mpe-simple_spread_v3": "3ea9076b4b39469dfd6b0482aa4c98738989b120ae95f9e63e5c3c9880edd4a4"
}
"""Environment -> sha256 of its bundled students' file."""
_GREEDY_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Partner:
    """A team that plays in a share of the episodes, with its reference and digest.

    ``agents`` is the probability that it plays an agent of these episodes.
    """

    policy: StudentPolicy
    share: float
    reference: str
    digest: str
    agents: float = AGENTS

    @property
    def rule(self) -> str:
        """How it takes part, in words, as a manifest states it."""
        probability = "3/4" if self.agents == AGENTS else f"{self.agents:g}"
        return (
            "in the stated share of the episodes each agent is played by the partner with "
            f"probability {probability}, at least one agent, greedily in 7 of 10 of these episodes "
            "and else sampled; labels, and the noise of the other agents, are as in all episodes"
        )


def load_partner(
    reference: str | Path | None, spec: EnvironmentSpec, share: float, agents: float = AGENTS
) -> Partner | None:
    """Return the partner called ``reference``; None for ``none``.

    ``bundled`` is the team that ships for the environment, or None where there is none. Anything
    else is a run folder or a ``students.safetensors``; its first seed is used.

    Raises
    ------
    CheckpointError, MismatchError
        It cannot be read, or was distilled for another environment.
    """
    name = str(reference or "none")
    if name == "none" or share <= 0:
        return None
    if name == "bundled":
        slug = re.sub(r"[^\w-]", "-", spec.id, flags=re.ASCII)
        if slug not in BUNDLED:
            return None
        path = Path(str(files("kd_offline.students"))) / "bundled" / slug / STUDENTS
        students = read_students(path, of_file=f"sha256:{BUNDLED[slug]}")
    else:
        students = _students(Path(name))
    policy = restore(students)[0]
    partner_spec = policy.card.environment
    if (partner_spec.agents, partner_spec.obs_widths) != (spec.agents, spec.obs_widths):
        if name == "bundled":  # the same task with other settings, such as more agents
            return None
        msg = (
            f"partner {name!r} was distilled for {partner_spec.id} with agents "
            f"{', '.join(partner_spec.agents)} and does not fit {spec.id}: give a run made for it"
        )
        raise MismatchError(msg)
    reference = name if name == "bundled" else "students"
    return Partner(policy, share, reference, digest(students.file.content), agents)


def _students(path: Path) -> StudentsFile:
    """Return the students of a run, checked against its ``run.json``, or those of a file."""
    if (path / RUN).is_file():
        return complete_run(path).students
    students = read_students(path)
    if not students.file.sealed:
        warn_unsealed(students.file.path, REMEDY)
    return students


def with_partner(seeds: SeedArray, behaviour: Behaviour, partner: Partner | None) -> Behaviour:
    """Return ``behaviour`` with the partner playing some agents in its share of the episodes.

    The episodes and agents depend on the episode's seed alone.
    """
    if partner is None:
        return behaviour
    n = partner.policy.card.environment.n_agents
    draws = uniforms(seeds, 0, (n + 3,), "partner")
    episodes: IntArray = np.flatnonzero(draws[:, 0] < partner.share)
    if not len(episodes):
        return behaviour
    plays = draws[episodes, 3:] < partner.agents
    plays[np.arange(len(episodes)), (draws[episodes, 1] * n).astype(np.int64)] = True
    greedy = draws[episodes, 2] < _GREEDY_SHARE
    memory = partner.policy.start(seeds[episodes])

    def choose(step: int, view: View, policy: Played) -> Choice:
        nonlocal memory
        choice = behaviour(step, view, policy)
        partner_view = _rows(view, episodes)
        output, memory = partner.policy.act(partner_view, memory)
        partner_policy = type(policy)(output.logits, partner_view.available_actions)
        numbers = uniforms(seeds[episodes], step, (n, *partner_policy.numbers), "partner action")
        return _mixed(
            choice, episodes, plays & partner_view.alive, _decide(partner_policy, greedy, numbers)
        )

    return choose


def _decide(policy: Played, greedy: BoolArray, numbers: FloatArray) -> Choice:
    """Return the partner's actions and their log probabilities, which are 0 where it is greedy."""
    actions = either(greedy[:, None], policy.mode(), policy.sample(numbers))
    logprob = np.where(greedy[:, None], 0.0, policy.log_prob(actions)).astype(np.float32)
    return Choice(actions, logprob)


def _mixed(choice: Choice, rows: IntArray, plays: BoolArray, partner: Choice) -> Choice:
    """Return ``choice`` with the partner's for the agents ``plays`` [b, N] of ``rows`` [b]."""

    def replaced(values: Array, partner_values: Any) -> Array:
        result = values.copy()
        result[rows] = either(plays, partner_values, values[rows])
        return result

    assert choice.logprob is not None  # noqa: S101 - recording behaviours state both
    assert choice.source is not None  # noqa: S101
    return Choice(
        replaced(choice.actions, partner.actions),
        replaced(choice.logprob, partner.logprob),
        replaced(choice.source, ACTION_SOURCES["other"]),
    )


def _rows(view: View, rows: IntArray) -> View:
    last_actions = None if view.last_actions is None else view.last_actions[rows]
    return replace(
        view,
        obs=view.obs[rows],
        state=view.state[rows],
        available_actions=view.available_actions[rows],
        alive=view.alive[rows],
        last_actions=last_actions,
    )
