"""A policy of the user's own: ``python:package.module:factory``, called with the environment."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd_offline.errors import CheckpointError, UsageError
from kd_offline.experts.foreign.expert import CountedShape, ForeignExpert, entry, probe
from kd_offline.experts.foreign.found import Given, only, settle
from kd_offline.schemas.environment import EnvironmentSpec


def load(place: str, reference: str, spec: EnvironmentSpec, given: Given) -> ForeignExpert:
    """Import the module, call ``factory(spec)`` and return the team policy that it made.

    The policy may say more of itself by attributes: ``digest`` (of its weights; else that of the
    module's source stands in), ``parameters`` and ``macs`` of one agent's decision.

    Raises
    ------
    UsageError, CheckpointError
        The place is not written as MODULE:NAME, or there is no such function.
    MismatchError
        Its outputs do not fit the environment.
    """
    factory = _factory(place, reference)
    policy = factory(spec)
    if not (hasattr(policy, "start") and hasattr(policy, "act")):
        msg = (
            f"expert {reference!r} made a {type(policy).__name__} without start and act: "
            "return a kd_offline.types.TeamPolicy"
        )
        raise CheckpointError(msg)
    output = probe(policy, spec, reference)
    detected = {
        "library": "python",
        "output": "logits" if output.q_values is None else "q_values",
        "critic_inputs": None if output.value is None else ("state",),
    }
    recipe = settle(detected, only(given, (), "python"))
    parameters = int(getattr(policy, "parameters", 0))
    macs = getattr(policy, "macs", None)
    shape = CountedShape(spec.obs_width, (), None, spec.action_count, (parameters, macs or 0, 0))
    missing = [] if output.value is not None else ["values in the policy's output"]
    architecture = {"library": "python", "factory": place}
    return ForeignExpert(
        policy=policy,
        recipe=recipe,
        record=entry(
            recipe,
            str(getattr(policy, "digest", _source_digest(factory))),
            parameters,
            "" if output.embedding is None else "as the policy gives it",
            architecture,
            missing,
        ),
        reference=reference,
        shapes=() if macs is None else (shape,) * spec.n_agents,
    )


def _factory(place: str, reference: str) -> Callable[[EnvironmentSpec], Any]:
    module, _, name = place.partition(":")
    if not module or not name:
        msg = f"expert {reference!r} names no function: write it as python:package.module:factory"
        raise UsageError(msg)
    try:
        factory = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        msg = (
            f"expert {reference!r}: cannot import {module!r} ({error}); install the package or "
            "set PYTHONPATH to its folder"
        )
        raise CheckpointError(msg) from error
    if not callable(factory):
        msg = f"expert {reference!r}: {module!r} has no function {name!r}; correct the name"
        raise CheckpointError(msg)
    return factory  # type: ignore[no-any-return]


def _source_digest(factory: Callable[..., Any]) -> str:
    file = inspect.getsourcefile(inspect.unwrap(factory))
    return "sha256:" + hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()
