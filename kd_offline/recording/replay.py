"""Play recorded episodes again: stored seeds and actions must reproduce the stored arrays."""

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
from kd_offline.recording.episodes import MAX_EPISODES, Part, choose, opened, parts
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.replay import ReplayReport
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.types import Array, BoolArray, IntArray, Outcome, View

# Views are float32; the physics behind them may be summed in another order on another processor.
TOLERANCE = 1e-5
_VIEW = ("obs", "obs_full", "state", "available_actions", "alive")
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
        They receive the number of finished episodes.

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
    if reason := environments.irreproducible(buffer.spec):
        raise UsageError(reason)
    environment_instance = rebuild(buffer.manifest, environment)
    chosen = choose(buffer, episodes, seed)
    comparison = Comparison(buffer.spec, TOLERANCE)
    done = steps = 0
    operation = Operation("replay", {"dataset": buffer.id, "episodes": episodes, "seed": seed})
    try:
        largest = environments.largest_batch(environment_instance, MAX_EPISODES)
        with observed(operation, observers) as observer:
            for part in parts(buffer, _needed(buffer), chosen, largest):
                _play(environment_instance, part, comparison)
                done, steps = done + len(part.episodes), steps + int(part.lengths.sum())
                observer.progress(done, len(chosen), "episodes, replay")
    finally:
        environment_instance.close()
    return ReplayReport(
        ok=comparison.first is None,
        exact=comparison.exact,
        environment=buffer.spec.id,
        recorded_version=buffer.spec.version,
        version=environment_instance.spec.version,
        episodes=done,
        steps=steps,
        tolerance=TOLERANCE,
        arrays=comparison.arrays(),
        first=comparison.first,
    )


def rebuild(manifest: DatasetManifest, allowed: str | None = None) -> BatchedEnvironment:
    """Return the environment that a dataset was recorded in; raises as :func:`replay` does."""
    spec = manifest.environment
    try:
        environment = environments.load_recorded(
            spec.id,
            spec.kwargs,
            asked_by="the dataset",
            allowed=allowed,
            parts=manifest.environment_parts,
        )
    except MissingExtraError:
        raise
    except UsageError as error:
        msg = f"the recorded environment cannot be played here: {error.args[0]}"
        raise UsageError(msg, *error.remedies) from error
    _check_same(spec, environment.spec)
    if spec.full is not None and (here := stepping.full_spec(environment).full) != spec.full:
        msg = (
            f"{spec.id} {environment.spec.version} here gives other full observations than the "
            f"recorded {spec.version} (widths {here and here.widths}, recorded were "
            f"{spec.full.widths}): install the recorded version"
        )
        raise MismatchError(msg)
    return environment


def _check_same(recorded: EnvironmentSpec, installed: EnvironmentSpec) -> None:
    for name in ("agents", "obs_widths", "action_counts", "state_width"):
        actual, expected = getattr(installed, name), getattr(recorded, name)
        if actual != expected:
            msg = (
                f"{recorded.id} {installed.version} here is not the recorded {recorded.version}: "
                f"its {name} are {actual}, recorded were {expected}; install the recorded version"
            )
            raise MismatchError(msg)


def _needed(buffer: ExpertBuffer) -> list[str]:
    steps = [f"steps/{name}" for name in (*_VIEW, *_RESULT, "actions")]
    others = [*(f"final/{name}" for name in _VIEW), "episodes/seed", "episodes/won"]
    return [name for name in (*steps, *others) if buffer.has(name)]


def _play(environment: BatchedEnvironment, part: Part, comparison: Comparison) -> None:
    seeds, full = part.arrays["episodes/seed"], comparison.spec.full
    view = stepping.reset(environment, seeds, full)
    actions = part.arrays["steps/actions"].astype(np.int64)
    running = np.ones(len(part.episodes), bool)
    for step in range(int(part.lengths.max())):
        running &= part.lengths > step
        if not running.any():
            break
        _compare_view(comparison, "steps", view, part, running, step)
        chosen = _legal(actions[:, step], view)
        outcome = stepping.step(environment, chosen, seeds, step, full)
        _compare(comparison, part, outcome, _RESULT, running, step)
        _compare_end(comparison, part, outcome, running & (part.lengths == step + 1))
        running &= ~(outcome.terminated | outcome.truncated)
        view = outcome.view


def _legal(actions: IntArray, view: View) -> IntArray:
    """Return ``actions``, with the first legal action where one is unknown or illegal.

    That happens after a divergence, and for agents that are not alive.
    """
    legal = view.available_actions
    is_legal = (actions >= 0) & (actions < legal.shape[-1])
    index = np.where(is_legal, actions, 0)
    is_legal &= np.take_along_axis(legal, index[..., None], axis=-1)[..., 0]
    return np.where(is_legal, actions, legal.argmax(axis=-1))


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
        compared = counts
        if field in ("obs", "obs_full", "available_actions") and f"{group}/alive" in part.arrays:
            compared = counts[:, None] & _at(part.arrays[f"{group}/alive"], step)
        comparison.add(name, getattr(view, field), stored, compared, part.episodes, step)


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
    """Compare the arrays stored after the last step of the episodes ``last``."""
    if not last.any():
        return
    _compare_view(comparison, "final", outcome.view, part, last, None)
    not_ended = ~(outcome.terminated | outcome.truncated)
    lengths = part.lengths + not_ended  # at least one step more
    comparison.add("episodes/length", lengths, part.lengths, last, part.episodes)
    if "episodes/won" in part.arrays:
        stored = part.arrays["episodes/won"]
        comparison.add("episodes/won", outcome.won, stored, last, part.episodes)


def _at(values: Array, step: int | None) -> Array:
    return values if step is None else values[:, step]
