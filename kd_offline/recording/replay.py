"""Play recorded episodes again: the stored seeds and actions must bring back what was stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_offline import environments
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.environments import stepping
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import MismatchError, MissingArrayError, MissingExtraError, UsageError
from kd_offline.networks.threads import computing_with
from kd_offline.recording.comparison import Comparison
from kd_offline.recording.episodes import MOST_EPISODES, Part, choose, opened, parts
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.replay import ReplayReport
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.types import Array, BoolArray, IntArray, Outcome, View

# Views are float32; the physics behind them may be summed in another order on another processor.
TOLERANCE = 1e-5
_VIEW = ("obs", "state", "available_actions", "alive")
_RESULT = ("reward", "terminated", "truncated")


@computing_with(None)
def replay(
    dataset: ExpertBuffer | str | Path,
    episodes: int,
    *,
    seed: int = 0,
    environment: str | None = None,
    observers: Sequence[Observer] = (),
) -> ReplayReport:
    """Re-create recorded episodes in their environment and compare every step.

    Parameters
    ----------
    dataset
        An open dataset or its address.
    episodes
        How many, drawn with ``seed``; all of them where there are fewer.
    environment
        Name of the environment, to allow one that a file may not start by itself, see
        :mod:`kd_offline.code_guard`. It must be the recorded one.
    observers
        Told how many episodes are done.

    Returns
    -------
    ReplayReport
        With the first divergence, where there is one. What agents see while they are not alive
        is not compared.

    Raises
    ------
    MissingArrayError
        The dataset holds no seeds.
    UsageError
        The environment cannot be rebuilt here, or plays no episode a second time.
    MismatchError
        The environment of this name has other agents, observations or actions.
    """
    buffer = opened(dataset)
    if not buffer.has("episodes/seed"):
        msg = (
            f"the dataset at {buffer.where!r} has no episodes/seed, so its episodes cannot be "
            "played again: record it with seeds, or verify without a replay"
        )
        raise MissingArrayError(msg)
    if why := environments.irreproducible(buffer.spec):
        raise UsageError(why)
    world = rebuild(buffer.spec, environment)
    chosen = choose(buffer, episodes, seed)
    comparison = Comparison(buffer.spec, TOLERANCE)
    done = steps = 0
    asked = Operation("replay", {"dataset": buffer.id, "episodes": episodes, "seed": seed})
    try:
        largest = environments.largest_batch(world, MOST_EPISODES)
        with observed(asked, observers) as observer:
            for part in parts(buffer, _needed(buffer), chosen, largest):
                _play(world, part, comparison)
                done, steps = done + len(part.episodes), steps + int(part.lengths.sum())
                observer.progress(done, len(chosen), "episodes, replay")
    finally:
        world.close()
    return ReplayReport(
        ok=comparison.first is None,
        exact=comparison.exact,
        environment=buffer.spec.id,
        recorded_version=buffer.spec.version,
        version=world.spec.version,
        episodes=done,
        steps=steps,
        tolerance=TOLERANCE,
        arrays=comparison.arrays(),
        first=comparison.first,
    )


def rebuild(spec: EnvironmentSpec, allowed: str | None = None) -> BatchedEnvironment:
    """Return the environment that ``spec`` describes; raises as :func:`replay` does."""
    try:
        world = environments.load_recorded(
            spec.id, spec.kwargs, asked_by="the dataset", allowed=allowed
        )
    except MissingExtraError:
        raise
    except UsageError as error:
        msg = f"the recorded environment cannot be played here: {error.args[0]}"
        raise UsageError(msg, *error.remedies) from error
    _check_same(spec, world.spec)
    return world


def _check_same(recorded: EnvironmentSpec, here: EnvironmentSpec) -> None:
    for name in ("agents", "obs_widths", "action_counts", "state_width"):
        got, want = getattr(here, name), getattr(recorded, name)
        if got != want:
            msg = (
                f"{recorded.id} {here.version} here is not the recorded {recorded.version}: its "
                f"{name} are {got}, recorded were {want}; install the recorded version"
            )
            raise MismatchError(msg)


def _needed(buffer: ExpertBuffer) -> list[str]:
    steps = [f"steps/{name}" for name in (*_VIEW, *_RESULT, "actions")]
    others = [*(f"final/{name}" for name in _VIEW), "episodes/seed", "episodes/won"]
    return [name for name in (*steps, *others) if buffer.has(name)]


def _play(world: BatchedEnvironment, part: Part, comparison: Comparison) -> None:
    seeds = part.arrays["episodes/seed"]
    view = stepping.reset(world, seeds)
    actions = part.arrays["steps/actions"].astype(np.int64)
    running = np.ones(len(part.episodes), bool)
    for step in range(int(part.lengths.max())):
        running &= part.lengths > step
        if not running.any():
            break
        _compare_view(comparison, "steps", view, part, running, step)
        outcome = stepping.step(world, _legal(actions[:, step], view), seeds, step)
        _compare(comparison, part, outcome, _RESULT, running, step)
        _compare_end(comparison, part, outcome, running & (part.lengths == step + 1))
        running &= ~(outcome.terminated | outcome.truncated)
        view = outcome.view


def _legal(actions: IntArray, view: View) -> IntArray:
    """Return ``actions`` with the first legal one where the environment does not know them.

    That happens after a divergence, and to agents that are gone.
    """
    legal = view.available_actions
    known = (actions >= 0) & (actions < legal.shape[-1])
    index = np.where(known, actions, 0)
    known &= np.take_along_axis(legal, index[..., None], axis=-1)[..., 0]
    return np.where(known, actions, legal.argmax(axis=-1))


def _compare_view(
    comparison: Comparison,
    group: str,
    view: View,
    part: Part,
    counts: BoolArray,
    step: int | None,
) -> None:
    for field in _VIEW:
        name = f"{group}/{field}"
        if name not in part.arrays:
            continue
        stored = _at(part.arrays[name], step)
        each = counts
        if field in ("obs", "available_actions") and f"{group}/alive" in part.arrays:
            each = counts[:, None] & _at(part.arrays[f"{group}/alive"], step)
        comparison.add(name, getattr(view, field), stored, each, part.episodes, step)


def _compare(
    comparison: Comparison,
    part: Part,
    outcome: Outcome,
    names: tuple[str, ...],
    counts: BoolArray,
    step: int,
) -> None:
    for field in names:
        stored = part.arrays[f"steps/{field}"][:, step]
        got = getattr(outcome, field)
        comparison.add(f"steps/{field}", got, stored, counts, part.episodes, step)


def _compare_end(comparison: Comparison, part: Part, outcome: Outcome, last: BoolArray) -> None:
    """Compare what is stored of the moment after the last step of the episodes ``last``."""
    if not last.any():
        return
    _compare_view(comparison, "final", outcome.view, part, last, None)
    goes_on = ~(outcome.terminated | outcome.truncated)
    lengths = part.lengths + goes_on  # at least one step more
    comparison.add("episodes/length", lengths, part.lengths, last, part.episodes)
    if "episodes/won" in part.arrays:
        stored = part.arrays["episodes/won"]
        comparison.add("episodes/won", outcome.won, stored, last, part.episodes)


def _at(values: Array, step: int | None) -> Array:
    return values if step is None else values[:, step]
