"""Reset and step an environment, and check the values that it returns.

A value that is not finite is reported here, where it first appears, with the environment's name.
One step later it would appear as a network's output, and the network would seem to be at fault.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import cast

import numpy as np
from pydantic import ValidationError

from kd_offline.environments.protocol import BatchedEnvironment, FullyObservable
from kd_offline.errors import MismatchError, UserCodeError
from kd_offline.schemas.environment import EnvironmentSpec, FullObservation
from kd_offline.types import Array, Float32Array, IntArray, Outcome, SeedArray, View
from kd_offline.user_code import calling, plain

_BOOL, _FLOAT = np.dtype(np.bool_), np.dtype(np.float32)


def full_spec(environment: BatchedEnvironment) -> EnvironmentSpec:
    """Return the spec of an environment with the description of its full observations.

    Raises
    ------
    MismatchError
        It gives no full observations, or states what cannot be.
    UserCodeError
        It fails.
    """
    spec = environment.spec
    with _border(environment, "full"):
        full = environment.full if isinstance(environment, FullyObservable) else None
    if full is None:
        msg = (
            f"environment {spec.id!r} gives no full observations: it hides nothing from its "
            "agents, or does not say what; choose the view local or state, and record without them"
        )
        raise MismatchError(msg)
    _check_kind(spec, full, FullObservation, "its attribute full")
    try:
        return EnvironmentSpec.model_validate({**dict(spec), "full": full})
    except ValidationError as error:
        reason = plain(error.errors()[0]["msg"].removeprefix("Value error, "))
        msg = (
            f"environment {spec.id!r} states full observations that cannot be ({reason}): correct "
            "the environment, or its settings"
        )
        raise MismatchError(msg) from error


def reset(
    environment: BatchedEnvironment, seeds: SeedArray, full: FullObservation | None = None
) -> View:
    """Return the first view of the episodes of ``seeds``: uint64 [B].

    With ``full``, as :func:`full_spec` states it, the view holds full observations.

    Raises
    ------
    UserCodeError
        The environment fails, or gives values that are not finite.
    MismatchError
        What it gives has other shapes or types than its spec says.
    """
    with _border(environment, "reset"):
        view = environment.reset(seeds)
    _check_view(environment.spec, view, seeds, "reset")
    return replace(view, obs_full=_full(environment, full, seeds, None))


def step(
    environment: BatchedEnvironment,
    actions: IntArray,
    seeds: SeedArray,
    number: int,
    full: FullObservation | None = None,
) -> Outcome:
    """Return the outcome of ``actions``, int [B, N], in step ``number``.

    Takes ``full`` and raises as :func:`reset`.
    """
    with _border(environment, "step", number):
        outcome = environment.step(actions)
    spec, when = environment.spec, f"step {number}"
    _check_kind(spec, outcome, Outcome, when)
    each = (len(seeds),)
    _check(spec, outcome.reward, (*each, spec.n_agents), _FLOAT, "a reward", when)
    _check(spec, outcome.terminated, each, _BOOL, "terminated", when)
    _check(spec, outcome.truncated, each, _BOOL, "truncated", when)
    _check(spec, outcome.won, each, np.dtype(np.int8), "won", when)
    _require_finite(spec, outcome.reward, seeds, "a reward", when)
    _check_view(spec, outcome.view, seeds, when)
    obs_full = _full(environment, full, seeds, number)
    return replace(outcome, view=replace(outcome.view, obs_full=obs_full))


def _border(
    environment: BatchedEnvironment, call: str, number: int | None = None
) -> AbstractContextManager[None]:
    """Return the border around an environment of other people's making; ours has its own within."""
    if type(environment).__module__.partition(".")[0] == "kd_offline":
        return nullcontext()
    return calling(f"environment {environment.spec.id!r}", call, step=number)


def _full(
    environment: BatchedEnvironment,
    full: FullObservation | None,
    seeds: SeedArray,
    number: int | None,
) -> Float32Array | None:
    """Return the full observations of the current views, float32 [B, N, F]; None without full."""
    if full is None:
        return None
    spec, when = environment.spec, "reset" if number is None else f"step {number}"
    observable = cast("FullyObservable", environment)  # full_spec has asked
    with _border(environment, "full_observations", number):
        values = observable.full_observations()
    shape = (len(seeds), spec.n_agents, full.width)
    _check(spec, values, shape, _FLOAT, "full observations", when)
    _require_finite(spec, values, seeds, "a full observation", when)
    return values


def _check_view(spec: EnvironmentSpec, view: View, seeds: SeedArray, when: str) -> None:
    _check_kind(spec, view, View, when)
    team = (len(seeds), spec.n_agents)
    _check(spec, view.obs, (*team, spec.obs_width), _FLOAT, "observations", when)
    _check(spec, view.state, (len(seeds), spec.state_width), _FLOAT, "a state", when)
    _check(spec, view.alive, team, _BOOL, "alive", when)
    legal = (*team, spec.action_count)
    _check(spec, view.available_actions, legal, _BOOL, "available_actions", when)
    _require_finite(spec, view.obs, seeds, "an observation", when)
    if not spec.state_is_obs:
        _require_finite(spec, view.state, seeds, "a state", when)


def _check_kind(spec: EnvironmentSpec, given: object, kind: type, when: str) -> None:
    if not isinstance(given, kind):
        msg = (
            f"environment {spec.id!r} gave {plain(type(given).__name__)} in {when} where a "
            f"kd_offline.types.{kind.__name__} is needed: correct the environment"
        )
        raise MismatchError(msg)


def _check(
    spec: EnvironmentSpec,
    values: Array,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    what: str,
    when: str,
) -> None:
    if isinstance(values, np.ndarray) and values.shape == shape and values.dtype == dtype:
        return
    got = plain(type(values).__name__)
    if isinstance(values, np.ndarray):
        got = f"{values.dtype} {values.shape}"
    msg = (
        f"environment {spec.id!r} gave {what} as {got} in {when}, but its spec asks for "
        f"{dtype} {shape}: correct the environment"
    )
    raise MismatchError(msg)


def _require_finite(
    spec: EnvironmentSpec, values: Array, seeds: SeedArray, what: str, when: str
) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    at = np.unravel_index(int(np.argmin(finite)), values.shape)
    to = "" if what == "a state" else f" agent {spec.agents[at[1]]!r}"
    msg = (
        f"environment {spec.id!r} gave{to} {what} that is not a finite float32 ({values[at]}) in "
        f"{when} of the episode with the seed {seeds[at[0]]}: correct the environment"
    )
    raise UserCodeError(msg)
