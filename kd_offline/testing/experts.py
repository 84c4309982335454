"""Conformance check for experts: run it on your own expert before recording it.

::

    from kd_offline.testing.experts import check_expert

    check_expert(load_expert("python:my_package:policy", environment.spec), environment)
"""

from __future__ import annotations

import re

import numpy as np

from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import MismatchError
from kd_offline.experts.protocol import Expert
from kd_offline.rollout.collect import TAP, Trajectories, collect
from kd_offline.rollout.play import sampled
from kd_offline.seeding import episode_seeds
from kd_offline.testing.conformance import require
from kd_offline.types import PolicyOutput, SeedArray

_EPISODES = 24
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4  # matrix products of other sizes round otherwise


def check_expert(expert: Expert, environment: BatchedEnvironment) -> None:
    """Raise ``ConformanceError`` unless an expert follows every rule of the protocol.

    Notes
    -----
    The rules, by the name an error begins with: ``identity``, ``outputs``, ``recording``,
    ``memory``, ``cost``, ``mask``.
    """
    spec, record = environment.spec, expert.describe()
    has_digest = (
        re.fullmatch(r"sha256:[0-9a-f]{64}", expert.digest) and expert.digest == record.digest
    )
    require(has_digest, "identity", f"digest {expert.digest!r} is not the sha256 of its record")
    seeds = episode_seeds(0, 0, _EPISODES)
    one, other = (_played(environment, expert, seeds) for _ in range(2))
    require(one.steps.keys() == other.steps.keys(), "outputs", "other outputs in the same episodes")
    for name, values in one.steps.items():
        equal = np.array_equal(values, other.steps[name])
        require(equal, "outputs", f"steps/{name} differs in the same episodes")
    stored = {"logits", "q_values"} & one.steps.keys()
    detail = f"it gives {stored}, its capture says {record.capture.output}"
    require(stored == {record.capture.output}, "recording", detail)
    if expert.with_value and expert.opponents is None:
        values_agree = bool(record.value_of) == ("value" in one.steps)
        require(values_agree, "recording", "value_of and the values that it gives do not agree")
    if expert.layer_widths is not None:
        layers = {k: v for k, v in one.steps.items() if k == "embedding" or k.startswith(TAP)}
        found = {name: values.shape[-1] for name, values in layers.items()}
        detail = f"layers are {found} wide, not {dict(expert.layer_widths)}"
        require(found.items() <= expert.layer_widths.items(), "recording", detail)
    _check_memory(environment, expert, seeds)
    mask = expert.mask()
    fits = mask is None or mask.shape == (spec.n_agents, spec.obs_width)
    require(fits, "mask", f"it is not of shape {(spec.n_agents, spec.obs_width)}")
    try:
        shapes = expert.actor_shapes()
    except MismatchError:
        return  # it says that it does not know
    require(len(shapes) == spec.n_agents, "cost", f"{len(shapes)} actors of {spec.n_agents} agents")


def _played(environment: BatchedEnvironment, expert: Expert, seeds: SeedArray) -> Trajectories:
    return collect(environment, expert, seeds, sampled(seeds))


def _check_memory(environment: BatchedEnvironment, expert: Expert, seeds: SeedArray) -> None:
    """Require that an episode does not depend on the other episodes of its batch."""
    half = np.arange(0, len(seeds), 2)
    views = (environment.reset(seeds), environment.reset(seeds[half]))
    memories = [expert.start(seeds), expert.start(seeds[half])]
    outputs: list[PolicyOutput] = []
    for k, view in enumerate(views):
        output, memories[k] = expert.act(view, memories[k])
        outputs.append(output)
    _same(outputs[0], outputs[1], half)
    selected = expert.keep(memories[0], half)
    if selected is not None:
        repeated = [expert.act(views[1], memory)[0] for memory in (selected, memories[1])]
        _same(repeated[0], repeated[1], np.arange(len(half)))


def _same(batch_output: PolicyOutput, part_output: PolicyOutput, rows: np.ndarray) -> None:
    for name in ("logits", "embedding", "value", "q_values"):
        one, other = getattr(batch_output, name), getattr(part_output, name)
        if one is not None:
            detail = f"{name} of an episode depends on the others that are played with it"
            require(np.allclose(one[rows], other, _RELATIVE, _ABSOLUTE), "memory", detail)
    for name, layer in batch_output.taps.items():
        detail = f"layer {name!r} of an episode depends on the others that are played with it"
        close = np.allclose(layer[rows], part_output.taps[name], _RELATIVE, _ABSOLUTE)
        require(close, "memory", detail)
