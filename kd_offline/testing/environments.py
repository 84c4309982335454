"""Conformance check for environments: run it on your own environment before recording with it.

::

    from kd_offline.testing.environments import check_environment

    check_environment(lambda: MyEnvironment())
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import numpy as np

from kd_offline import seeding
from kd_offline.environments.protocol import BatchedEnvironment, FullyObservable
from kd_offline.environments.stepping import full_spec
from kd_offline.errors import MismatchError, UserCodeError
from kd_offline.schemas.environment import Blocks, EnvironmentSpec, FullObservation
from kd_offline.testing.conformance import ConformanceError
from kd_offline.types import Array, BoolArray, IntArray, Outcome, SeedArray, View

__all__ = ["ConformanceError", "check_environment"]

_SEEDS = (3, 1, 4, 15)
_Record = TypeVar("_Record", View, Outcome)


def check_environment(
    make: Callable[[], BatchedEnvironment],
    *,
    seeds: Sequence[int] = _SEEDS,
    steps: int | None = None,
) -> None:
    """Raise :class:`ConformanceError` unless the environment follows every rule of the protocol.

    Parameters
    ----------
    make
        Returns a new environment of the same kind each time; called a few times.
    seeds
        Distinct seeds of the episodes that are played, at least two.
    steps
        Steps to play; the default goes three past the end of the longest episode, so that the
        behaviour of finished slots is seen.

    Notes
    -----
    An agent that is not alive waits or is gone: one that waits sees something and has no legal
    action, one that is gone sees zeros; in every view of a running episode some agent is alive.

    Full observations, where the environment gives them, follow the rules of observations, and
    episodes are the same whether anybody asks for them or not.

    The rules, by the name an error begins with: ``spec``, ``view``, ``outcome``, ``ends``,
    ``finished``, ``fresh arrays``, ``determinism``, ``batch independence``, ``reset_where``.
    """
    first = make()
    steps = first.spec.episode_limit + 3 if steps is None else steps
    several = np.array(seeds, np.uint64)
    _check_spec(first)
    reference = _play(first, several, steps)
    first.close()
    _check_replay(make, several, steps, reference)
    _check_single(make, several, steps, reference)
    middle = max(1, min(steps, first.spec.episode_limit) // 2)
    for moment in (middle, steps):
        _check_reset_where(make, several, moment, reference)


@dataclass(slots=True)
class _Episodes:
    """Copies of all views and outcomes of a play."""

    views: list[View] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


def _full_of(env: BatchedEnvironment) -> FullObservation | None:
    return env.full if isinstance(env, FullyObservable) else None


def _check_spec(env: BatchedEnvironment) -> None:
    spec, full = env.spec, _full_of(env)
    _check_blocks(spec, spec.obs_widths, spec.blocks, "")
    if full is not None:
        _rule("spec", spec.full is None, "spec.full is for the loops that use it: leave it None")
        try:
            full_spec(env)
        except (MismatchError, UserCodeError) as error:
            _rule("spec", False, str(error))
        _check_blocks(spec, full.widths, full.blocks, "full ")
    for names, count in zip(spec.action_names, spec.action_counts, strict=True):
        _rule("spec", len(names) == count > 0, f"{len(names)} action names for {count} actions")
    concatenated = not spec.state_is_obs or spec.state_width == sum(spec.obs_widths)
    _rule("spec", concatenated, "state_is_obs, but the widths do not add up to the state's")


def _check_blocks(
    spec: EnvironmentSpec, widths: Sequence[int], blocks_by_agent: Blocks, kind: str
) -> None:
    for agent, width in zip(spec.agents, widths, strict=True):
        covered = np.zeros(width, int)
        for block, ranges in blocks_by_agent[agent].items():
            for start, stop in ranges:
                inside = 0 <= start < stop <= width
                what = f"{kind}block {block!r} of {agent!r} leaves its {width} features"
                _rule("spec", inside, what)
                covered[start:stop] += 1
        complete = bool((covered == 1).all())
        _rule("spec", complete, f"{kind}blocks of {agent!r} overlap or leave gaps")


def _look(env: BatchedEnvironment, view: View, *, full: bool) -> View:
    """Return a view with full observations, where the environment gives them and ``full``."""
    _rule("view", view.obs_full is None, "obs_full is for the loops that use it: leave it None")
    described = _full_of(env) if full else None
    if described is None or not isinstance(env, FullyObservable):
        return view
    values = env.full_observations()
    shape = (len(view.obs), env.spec.n_agents, described.width)
    _array("view", "full_observations", values, shape, np.float32)
    unused = np.arange(described.width) >= np.array(described.widths)[:, None]
    _rule("view", not values[:, unused].any(), "padding of full_observations is not zero")
    _rule("view", bool(np.isfinite(values).all()), "full_observations is not finite")
    gone = ~view.alive & ~view.obs.any(axis=-1)
    _rule("view", not values[gone].any(), "full_observations of an agent that is gone are not zero")
    return dataclasses.replace(view, obs_full=values)


def _play(env: BatchedEnvironment, seeds: SeedArray, steps: int, *, full: bool = True) -> _Episodes:
    """Play random legal actions and check every view and outcome."""
    returned, played = _Episodes(), _Episodes()
    returned.views.append(_look(env, env.reset(seeds), full=full))
    played.views.append(_copy_view(returned.views[0]))
    _check_view(env.spec, returned.views[0], len(seeds))
    some_alive = bool(returned.views[0].alive.any(axis=-1).all())
    _rule("ends", some_alive, "a slot has no agent alive and yet begins")
    for step in range(steps):
        outcome = env.step(_actions(seeds, step, played.views[-1]))
        outcome = dataclasses.replace(outcome, view=_look(env, outcome.view, full=full))
        _check_view(env.spec, outcome.view, len(seeds))
        _check_outcome(env.spec, outcome, len(seeds))
        returned.views.append(outcome.view)
        returned.outcomes.append(outcome)
        played.views.append(_copy_view(outcome.view))
        played.outcomes.append(_copy_outcome(outcome))
        _check_ends(env.spec, played, step)
    for name, returned_array, copied in _all_fields(returned, played):
        _rule(
            "fresh arrays",
            _same(returned_array, copied),
            f"{name} was written after it was returned",
        )
    return played


def _check_view(spec: EnvironmentSpec, view: View, batch: int) -> None:
    n, a = spec.n_agents, spec.action_count
    _array("view", "obs", view.obs, (batch, n, spec.obs_width), np.float32)
    _array("view", "state", view.state, (batch, spec.state_width), np.float32)
    _array("view", "available_actions", view.available_actions, (batch, n, a), np.bool_)
    _array("view", "alive", view.alive, (batch, n), np.bool_)
    unused = np.arange(spec.obs_width) >= np.array(spec.obs_widths)[:, None]
    _rule("view", not view.obs[:, unused].any(), "padding of obs is not zero")
    missing = np.arange(a) >= np.array(spec.action_counts)[:, None]
    _rule("view", not view.available_actions[:, missing].any(), "an action past the count is legal")
    choice = view.available_actions.any(axis=-1)
    _rule("view", bool((choice | ~view.alive).all()), "an agent that is alive has no legal action")
    unused_choice = choice & ~view.alive & view.obs.any(axis=-1)
    _rule("view", not unused_choice.any(), "an agent that waits has a legal action")
    for name in ("obs", "state"):
        _rule("view", bool(np.isfinite(getattr(view, name)).all()), f"{name} is not finite")
    if spec.state_is_obs:
        concatenated = view.obs[:, ~unused]
        _rule("view", _same(concatenated, view.state), "state is not the concatenation of obs")


def _check_outcome(spec: EnvironmentSpec, outcome: Outcome, batch: int) -> None:
    _array("outcome", "reward", outcome.reward, (batch, spec.n_agents), np.float32)
    _array("outcome", "terminated", outcome.terminated, (batch,), np.bool_)
    _array("outcome", "truncated", outcome.truncated, (batch,), np.bool_)
    _array("outcome", "won", outcome.won, (batch,), np.int8)
    _rule("outcome", bool(np.isfinite(outcome.reward).all()), "reward is not finite")
    _rule("outcome", bool(np.isin(outcome.won, (-1, 0, 1)).all()), "won is not -1, 0 or 1")


def _check_ends(spec: EnvironmentSpec, played: _Episodes, step: int) -> None:
    """Check the flags of the last step, and that slots finished before it did not change."""
    outcome, former_view = played.outcomes[-1], played.views[-2]
    _rule(
        "ends",
        not (outcome.terminated & outcome.truncated).any(),
        "a slot is terminated and truncated",
    )
    ended = outcome.terminated | outcome.truncated
    late = step + 1 >= spec.episode_limit and not ended.all()
    _rule("ends", not late, f"a slot is still running after {step + 1} steps")
    acting = played.views[-1].alive.any(axis=-1) | ended
    _rule("ends", bool(acting.all()), "a slot has no agent alive and yet goes on")
    if step == 0:
        return
    former_outcome = played.outcomes[-2]
    finished = former_outcome.terminated | former_outcome.truncated
    for name, a, b in _fields(former_view, outcome.view):
        _rule("finished", _same(a[finished], b[finished]), f"{name} of a finished slot changes")
    for name in ("terminated", "truncated", "won"):
        unchanged = _same(getattr(former_outcome, name)[finished], getattr(outcome, name)[finished])
        _rule("finished", unchanged, f"{name} of a finished slot changes")
    _rule("finished", not outcome.reward[finished].any(), "a finished slot pays a reward")


def _check_replay(
    make: Callable[[], BatchedEnvironment], seeds: SeedArray, steps: int, reference: _Episodes
) -> None:
    """Play the same episodes in a new environment, then once more in the same one."""
    env = make()
    for attempt, full in (("in a new environment", False), ("after a second reset", True)):
        again = _play(env, seeds, steps, full=full)
        _compare("determinism", attempt, reference, again, np.arange(len(seeds)))
    env.close()


def _check_single(
    make: Callable[[], BatchedEnvironment], seeds: SeedArray, steps: int, reference: _Episodes
) -> None:
    """Play the episodes alone, and in the opposite order."""
    env = make()
    order = np.arange(len(seeds))[::-1]
    _compare(
        "batch independence", "in another slot", reference, _play(env, seeds[order], steps), order
    )
    for row in range(len(seeds)):
        alone = _play(env, seeds[row : row + 1], steps)
        _compare("batch independence", "played alone", reference, alone, np.array([row]))
    env.close()


def _check_reset_where(
    make: Callable[[], BatchedEnvironment], seeds: SeedArray, moment: int, reference: _Episodes
) -> None:
    """Restart every other slot after ``moment`` steps; the others must continue unchanged."""
    env = make()
    view = env.reset(seeds)
    for step in range(moment):
        view = env.step(_actions(seeds, step, view)).view
    restarted = np.arange(len(seeds)) % 2 == 0
    view = _look(env, env.reset_where(restarted, seeds), full=True)
    _check_restarted(view, restarted, reference.views[moment], reference.views[0])
    for step in range(moment, len(reference.outcomes)):
        continued_actions, restarted_actions = (
            _actions(seeds, step, view),
            _actions(seeds, step - moment, view),
        )
        outcome = env.step(np.where(restarted[:, None], restarted_actions, continued_actions))
        view = _look(env, outcome.view, full=True)
        continued, fresh = reference.outcomes[step], reference.outcomes[step - moment]
        _check_restarted(outcome, restarted, continued, fresh)
        _check_restarted(view, restarted, continued.view, fresh.view)
    env.close()


def _check_restarted(
    actual: _Record, restarted: BoolArray, continued: _Record, fresh: _Record
) -> None:
    for name, values, expected in _fields(actual, continued):
        equal = _same(values[~restarted], expected[~restarted])
        _rule("reset_where", equal, f"{name} of slots that were not restarted changes")
    for name, values, expected in _fields(actual, fresh):
        equal = _same(values[restarted], expected[restarted])
        _rule("reset_where", equal, f"{name} of restarted slots differs from a new episode")


def _compare(
    rule: str, condition: str, reference: _Episodes, played: _Episodes, rows: IntArray
) -> None:
    for name, a, b in _all_fields(reference, played):
        _rule(rule, _same(a[rows], b), f"{name} differs {condition}")


def _actions(seeds: SeedArray, step: int, view: View) -> IntArray:
    """Return legal actions drawn from seed and step; action 0 for agents that are not alive."""
    legal = view.available_actions
    draw = seeding.uniforms(seeds, step, legal.shape[1:], "conformance")
    actions: IntArray = np.where(legal, draw, -1.0).argmax(axis=-1)
    return actions


def _fields(one: _Record, other: _Record) -> Iterator[tuple[str, Array, Array]]:
    # The loop that steps an environment fills in last_actions; the environment leaves it out.
    for item in dataclasses.fields(one):
        former, latter = getattr(one, item.name), getattr(other, item.name)
        if item.name in ("view", "last_actions") or former is None or latter is None:
            continue
        yield item.name, former, latter


def _all_fields(one: _Episodes, other: _Episodes) -> Iterator[tuple[str, Array, Array]]:
    views = zip(one.views, other.views, strict=True)
    outcomes = zip(one.outcomes, other.outcomes, strict=True)
    yield from chain.from_iterable(_fields(a, b) for a, b in views)
    yield from chain.from_iterable(_fields(a, b) for a, b in outcomes)


def _copy_view(view: View) -> View:
    return View(**{name: array.copy() for name, array, _ in _fields(view, view)})


def _copy_outcome(outcome: Outcome) -> Outcome:
    arrays = {name: array.copy() for name, array, _ in _fields(outcome, outcome)}
    return Outcome(view=_copy_view(outcome.view), **arrays)


def _array(rule: str, name: str, array: Array, shape: tuple[int, ...], dtype: type) -> None:
    _rule(rule, array.shape == shape, f"{name} has shape {array.shape}, expected {shape}")
    _rule(rule, array.dtype == dtype, f"{name} is {array.dtype}, expected {np.dtype(dtype)}")


def _same(a: Array, b: Array) -> bool:
    return np.array_equal(a, b)


def _rule(rule: str, holds: bool, detail: str) -> None:
    if not holds:
        raise ConformanceError(rule, detail)
