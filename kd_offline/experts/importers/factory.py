"""Import a policy of the user: ``python:package.module:factory``, called with the environment."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.errors import CheckpointError, UsageError, UserCodeError
from kd_offline.experts.importers.expert import ForeignExpert, entry, layer_widths, probe
from kd_offline.experts.importers.found import Given, only, settle
from kd_offline.networks.arithmetic import CountedShape
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.user_code import calling, described, plain


def load(factory_path: str, reference: str, spec: EnvironmentSpec, given: Given) -> ForeignExpert:
    """Import the module, call ``factory(spec)`` and return its team policy as an expert.

    The policy may have attributes: ``digest`` (of its weights; by default that of the module's
    source), and ``parameters`` and ``macs`` of one agent's decision.

    Raises
    ------
    UsageError, CheckpointError
        The place is not written as MODULE:NAME, there is no such function, or what it states of
        itself cannot be.
    UserCodeError
        The module or the function fails.
    MismatchError
        Its outputs do not fit the environment.
    """
    code = f"expert {reference!r}"
    factory = _factory(factory_path, reference)
    with calling(code, "the call of the factory"):
        policy = factory(spec)
    with calling(code, "looking at what the factory made"):
        complete = callable(getattr(policy, "start", None)) and callable(
            getattr(policy, "act", None)
        )
        stated = {name: getattr(policy, name, None) for name in ("parameters", "macs", "digest")}
    if not complete:
        msg = (
            f"{code} made a {type(policy).__name__} without start and act: "
            "return a kd_offline.types.TeamPolicy"
        )
        raise CheckpointError(msg)
    parameters, macs = (_count(code, name, stated[name]) for name in ("parameters", "macs"))
    identity = _digest(code, stated["digest"], factory)
    output = probe(policy, spec, reference)
    detected = {
        "library": "python",
        "output": "logits" if output.q_values is None else "q_values",
        "critic_inputs": None if output.value is None else ("state",),
    }
    recipe = settle(detected, only(given, (), "python"))
    counted = (parameters or 0, macs or 0, 0)
    shape = CountedShape(spec.obs_width, spec.action_count, counted)
    missing = [] if output.value is not None else ["values in the policy's output"]
    architecture = {"library": "python", "factory": factory_path}
    return ForeignExpert(
        policy=policy,
        recipe=recipe,
        record=entry(
            recipe,
            identity,
            parameters or 0,
            "" if output.embedding is None else "as the policy gives it",
            architecture,
            missing,
        ).model_copy(update={"reference": f"python:{factory_path}"}),
        reference=reference,
        shapes=() if macs is None else (shape,) * spec.n_agents,
        layer_widths=layer_widths(output),
    )


def _factory(factory_path: str, reference: str) -> Callable[[EnvironmentSpec], Any]:
    module, _, name = factory_path.partition(":")
    if not module or not name:
        msg = f"expert {reference!r} names no function: write it as python:package.module:factory"
        raise UsageError(msg)
    code = f"expert {reference!r}"
    try:
        with calling(code, "its import"):
            factory = getattr(importlib.import_module(module), name, None)
    except UserCodeError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        msg = (
            f"{code}: cannot import {module!r} ({described(error.__cause__)}); install the package "
            "or set PYTHONPATH to its folder"
        )
        raise CheckpointError(msg) from error.__cause__
    if not callable(factory):
        msg = f"{code}: {module!r} has no function {name!r}; correct the name"
        raise CheckpointError(msg)
    return factory  # type: ignore[no-any-return]


def _count(code: str, name: str, stated: object) -> int | None:
    """Return a stated number of its cost, checked; None for a method of that name."""
    if stated is None or callable(stated):
        return None
    is_integer = isinstance(stated, int | np.integer) and not isinstance(stated, bool)
    if not is_integer or not 0 <= int(stated) < 2**63:  # type: ignore[call-overload]
        msg = f"{code} states {name} as {_quoted(stated)}: give a whole number of 0 or more"
        raise CheckpointError(msg)
    return int(stated)  # type: ignore[call-overload,no-any-return]


def _digest(code: str, stated: object, factory: Callable[..., Any]) -> str:
    """Return the digest that the policy states, or that of its source."""
    if stated is None:
        return _source_digest(factory)
    if not isinstance(stated, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", stated):
        msg = (
            f"{code} states its digest as {_quoted(stated)}: give sha256: and 64 hexadecimal "
            "digits, or leave the attribute out"
        )
        raise CheckpointError(msg)
    return stated


def _quoted(stated: object) -> str:
    return plain(repr(stated) if isinstance(stated, int | float | str) else type(stated).__name__)


def _source_digest(factory: Callable[..., Any]) -> str:
    """Return the digest of the file that holds a factory's source."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(factory))
    except (TypeError, ValueError):  # an object with __call__: that of its class
        file = inspect.getsourcefile(type(factory))
    try:
        source = Path(file).read_bytes() if file else b""
    except OSError:
        source = b""
    return "sha256:" + hashlib.sha256(source).hexdigest()
