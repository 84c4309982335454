"""Whole episodes of a policy in an environment, every step kept as arrays.

Recording writes them to disk, and the experts' training learns from them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kd_offline.environments import largest_batch
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import MismatchError
from kd_offline.rollout.play import Behaviour, Play, Step, sampled
from kd_offline.types import Array, BoolArray, Int8Array, IntArray, SeedArray, TeamPolicy, View

TAP = "embedding_"
"""Beginning of the names of arrays with other layers of the policy's networks."""


@dataclass(frozen=True, slots=True)
class Trajectories:
    """``B`` whole episodes; entries after an episode's end are repeated views and zero rewards.

    Outputs of the policy after an episode's end are arbitrary, as not every policy still runs then.

    ``steps`` maps a name to [T, B, ...], ``final`` to the state after the last transition [B, ...].
    """

    steps: dict[str, Array]
    final: dict[str, Array]
    length: IntArray  # [B]
    won: Int8Array  # [B]

    @property
    def valid(self) -> BoolArray:
        """Which steps belong to their episode: bool [T, B]."""
        steps = len(next(iter(self.steps.values())))
        return np.arange(steps)[:, None] < self.length

    def view(self, step: int) -> View:
        """Return the view at ``step``."""
        arrays = {name: values[step] for name, values in self.steps.items()}
        last_actions = self.steps["actions"][step - 1] if step else None
        return View(
            arrays["obs"],
            arrays["state"],
            arrays["available_actions"],
            arrays["alive"],
            last_actions,
            arrays.get("obs_full"),
        )


def collect(
    environment: BatchedEnvironment,
    policy: TeamPolicy,
    seeds: SeedArray,
    behaviour: Behaviour,
    casts: Mapping[str, Callable[[Array], Array]] | None = None,
    without: Collection[str] = (),
    *,
    full: bool = False,
) -> Trajectories:
    """Return one episode for every seed, with every step stored.

    ``casts`` maps names of step arrays to functions that convert them before they are stored;
    arrays named in ``without`` are not stored. What is said of ``embedding`` holds for all layers.
    Full observations are stored where the policy acts by them, or with ``full``.

    Raises
    ------
    MismatchError
        An episode does not end within the environment's limit, or policy or environment give
        something else than their spec says or than a step before.
    UserCodeError
        Policy or environment fail, or give values that are not finite.
    """
    play = Play(environment, policy, seeds, full=full)
    rows: dict[str, list[Array]] = {}
    shapes: dict[str, tuple[int, ...]] | None = None
    length = np.zeros(len(seeds), np.int64)
    won = np.full(len(seeds), -1, np.int8)
    value, q_tot_max = None, None
    for step in play.steps(behaviour):
        value = _latest(value, step.output.value, step.seen)
        q_tot_max = _latest(q_tot_max, step.output.q_tot_max, step.seen)
        arrays = _arrays(step)
        shapes = _same_shapes(shapes, arrays, step.number)
        for name, values in arrays.items():
            kind = "embedding" if name.startswith(TAP) else name
            if kind not in without:
                stored = casts[kind](values) if casts and kind in casts else values
                rows.setdefault(name, []).append(stored)
        length += step.running
        won[step.running] = step.outcome.won[step.running]
    # Memory order is episode by episode, so that writing to disk needs no further copy.
    steps = {name: np.stack(values, axis=1).swapaxes(0, 1) for name, values in rows.items()}
    ended = length == len(next(iter(steps.values())))
    output = play.policy_output(ended)
    ends = (_latest(value, output.value, ended), _latest(q_tot_max, output.q_tot_max, ended))
    final = _final(play.view, *ends)
    return Trajectories(steps, {k: v for k, v in final.items() if k not in without}, length, won)


def collect_sampled(
    environment: BatchedEnvironment,
    policy: TeamPolicy,
    seeds: SeedArray,
    without: Collection[str] = (),
) -> Trajectories:
    """Return one episode of sampled actions for every seed, in the largest possible batches.

    Raises as :func:`collect`.
    """
    size = largest_batch(environment, len(seeds))
    parts = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    return concatenate(
        [collect(environment, policy, s, sampled(s), without=without) for s in parts]
    )


def concatenate(parts: Sequence[Trajectories]) -> Trajectories:
    """Return the episodes of all ``parts``; shorter ones are zero-padded."""
    if len(parts) == 1:
        return parts[0]
    longest = max(len(next(iter(part.steps.values()))) for part in parts)

    def padded(values: Array) -> Array:
        return np.pad(values, ((0, longest - len(values)), *((0, 0),) * (values.ndim - 1)))

    def concatenated(mappings: Sequence[Mapping[str, Array]], axis: int) -> dict[str, Array]:
        return {name: np.concatenate([x[name] for x in mappings], axis) for name in mappings[0]}

    steps = [{name: padded(values) for name, values in part.steps.items()} for part in parts]
    return Trajectories(
        steps=concatenated(steps, 1),
        final=concatenated([part.final for part in parts], 0),
        length=np.concatenate([part.length for part in parts]),
        won=np.concatenate([part.won for part in parts]),
    )


def _arrays(step: Step) -> dict[str, Array]:
    """Return the arrays of one step by name; outputs that the policy does not give are absent."""
    view, output, choice, outcome = step.view, step.output, step.choice, step.outcome
    q_tot, credit = (None, None) if output.mix is None else output.mix(choice.actions)
    values: dict[str, Array | None] = {
        "obs": view.obs,
        "obs_full": view.obs_full,
        "state": view.state,
        "available_actions": view.available_actions,
        "alive": view.alive,
        "actions": choice.actions,
        "behaviour_logprob": choice.logprob,
        "action_source": choice.source,
        "logits": output.logits if output.q_values is None else None,
        "q_values": output.q_values,
        "q_tot": q_tot,
        "q_tot_max": output.q_tot_max,
        "mixer_credit": credit,
        "embedding": output.embedding,
        "value": output.value,
        "reward": outcome.reward,
        "terminated": outcome.terminated,
        "truncated": outcome.truncated,
        **{f"{TAP}{name}": layer for name, layer in output.taps.items()},
    }
    return {name: value for name, value in values.items() if value is not None}


def _same_shapes(
    former_shapes: dict[str, tuple[int, ...]] | None, arrays: Mapping[str, Array], step: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a step's arrays; raise if they differ from those of the step before."""
    shapes = {name: values.shape for name, values in arrays.items()}
    if former_shapes is not None and shapes != former_shapes:
        changed = sorted(
            k for k in shapes.keys() | former_shapes.keys() if shapes.get(k) != former_shapes.get(k)
        )
        msg = (
            f"the policy gives {', '.join(f'steps/{name}' for name in changed)} in step {step} "
            "otherwise than in the step before: give the same outputs of the same shapes in every "
            "step"
        )
        raise MismatchError(msg)
    return shapes


def _latest(former: Array | None, current: Array | None, seen: BoolArray) -> Array | None:
    """Return outputs, [B, ...], updated only for the episodes whose view is new.

    An episode that ended before others repeats its final view. A critic with a memory would give a
    new value every time, which would depend on the other episodes of the batch.
    """
    if former is None or current is None:
        return current
    return np.where(seen.reshape(-1, *[1] * (current.ndim - 1)), current, former)


def _final(view: View, value: Array | None, q_tot_max: Array | None) -> dict[str, Array]:
    """Return the final view, with the policy's values of it if it has any."""
    final: dict[str, Array | None] = {
        "obs": view.obs,
        "obs_full": view.obs_full,
        "state": view.state,
        "available_actions": view.available_actions,
        "alive": view.alive,
        "value": value,
        "q_tot_max": q_tot_max,
    }
    return {name: values for name, values in final.items() if values is not None}
