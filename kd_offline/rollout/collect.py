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


@dataclass(frozen=True, slots=True)
class Trajectories:
    """``B`` whole episodes; entries after an episode's end are repeated views and zero rewards.

    What a policy says after an episode's end means nothing: not all policies are still asked.

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
        """Return what the teams saw at ``step``."""
        now = {name: values[step] for name, values in self.steps.items()}
        last = self.steps["actions"][step - 1] if step else None
        return View(now["obs"], now["state"], now["available_actions"], now["alive"], last)


def collect(
    environment: BatchedEnvironment,
    policy: TeamPolicy,
    seeds: SeedArray,
    behaviour: Behaviour,
    casts: Mapping[str, Callable[[Array], Array]] | None = None,
    without: Collection[str] = (),
) -> Trajectories:
    """Play one episode for every seed and keep every step.

    ``casts`` maps names of step arrays to what turns them into the form that is kept; arrays named
    in ``without`` are not kept at all.

    Raises
    ------
    MismatchError
        An episode does not end within the environment's limit, or policy or environment give
        something else than their spec says or than a step before.
    UserCodeError
        Policy or environment fail, or give values that are not finite.
    """
    play = Play(environment, policy, seeds)
    rows: dict[str, list[Array]] = {}
    shapes: dict[str, tuple[int, ...]] | None = None
    length = np.zeros(len(seeds), np.int64)
    won = np.full(len(seeds), -1, np.int8)
    value, best = None, None
    for step in play.steps(behaviour):
        value = _latest(value, step.output.value, step.seen)
        best = _latest(best, step.output.q_tot_max, step.seen)
        made = _arrays(step)
        shapes = _same_shapes(shapes, made, step.number)
        for name, values in made.items():
            if name not in without:
                kept = casts[name](values) if casts and name in casts else values
                rows.setdefault(name, []).append(kept)
        length += step.running
        won[step.running] = step.outcome.won[step.running]
    # Stored episode by episode, shown step by step: what is written to disk needs no other copy.
    steps = {name: np.stack(values, axis=1).swapaxes(0, 1) for name, values in rows.items()}
    over = length == len(next(iter(steps.values())))
    output = play.ask(over)
    ends = (_latest(value, output.value, over), _latest(best, output.q_tot_max, over))
    final = _final(play.view, *ends)
    return Trajectories(steps, {k: v for k, v in final.items() if k not in without}, length, won)


def collect_sampled(
    environment: BatchedEnvironment,
    policy: TeamPolicy,
    seeds: SeedArray,
    without: Collection[str] = (),
) -> Trajectories:
    """Play one episode of sampled actions for every seed, as many at once as can be.

    Raises as :func:`collect`.
    """
    size = largest_batch(environment, len(seeds))
    parts = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    return joined([collect(environment, policy, s, sampled(s), without=without) for s in parts])


def joined(parts: Sequence[Trajectories]) -> Trajectories:
    """Return the episodes of all ``parts``; shorter ones are filled up with zeros."""
    if len(parts) == 1:
        return parts[0]
    longest = max(len(next(iter(part.steps.values()))) for part in parts)

    def padded(values: Array) -> Array:
        return np.pad(values, ((0, longest - len(values)), *((0, 0),) * (values.ndim - 1)))

    def side_by_side(kept: Sequence[Mapping[str, Array]], axis: int) -> dict[str, Array]:
        return {name: np.concatenate([x[name] for x in kept], axis) for name in kept[0]}

    steps = [{name: padded(values) for name, values in part.steps.items()} for part in parts]
    return Trajectories(
        steps=side_by_side(steps, 1),
        final=side_by_side([part.final for part in parts], 0),
        length=np.concatenate([part.length for part in parts]),
        won=np.concatenate([part.won for part in parts]),
    )


def _arrays(step: Step) -> dict[str, Array]:
    """Return what is known of one step, by name; what the policy does not give is left out."""
    view, output, choice, outcome = step.view, step.output, step.choice, step.outcome
    q_tot, credit = (None, None) if output.mix is None else output.mix(choice.actions)
    values: dict[str, Array | None] = {
        "obs": view.obs,
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
    }
    return {name: value for name, value in values.items() if value is not None}


def _same_shapes(
    before: dict[str, tuple[int, ...]] | None, made: Mapping[str, Array], step: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a step's arrays, which must be those of the step before."""
    now = {name: values.shape for name, values in made.items()}
    if before is not None and now != before:
        odd = sorted(k for k in now.keys() | before.keys() if now.get(k) != before.get(k))
        msg = (
            f"the policy gives {', '.join(f'steps/{name}' for name in odd)} in step {step} "
            "otherwise than in the step before: give the same outputs of the same shapes in every "
            "step"
        )
        raise MismatchError(msg)
    return now


def _latest(known: Array | None, said: Array | None, seen: BoolArray) -> Array | None:
    """Return what a policy says of views, [B, ...], anew for the episodes that saw another view.

    An episode that ended before the others sees its last view again and again. A critic with a
    memory would change its mind about it, and by how much would depend on the rest of the batch.
    """
    if known is None or said is None:
        return said
    return np.where(seen.reshape(-1, *[1] * (said.ndim - 1)), said, known)


def _final(view: View, value: Array | None, q_tot_max: Array | None) -> dict[str, Array]:
    """Return the last view, with what the policy says of it where it says such a thing."""
    final: dict[str, Array | None] = {
        "obs": view.obs,
        "state": view.state,
        "available_actions": view.available_actions,
        "alive": view.alive,
        "value": value,
        "q_tot_max": q_tot_max,
    }
    return {name: values for name, values in final.items() if values is not None}
