"""The agent interface that a team is held against: from a file, or of an environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kd_offline.errors import UsageError
from kd_offline.recipes import read_tree
from kd_offline.schemas.interface import AgentInterface, InterfaceSpec

if TYPE_CHECKING:
    from kd_offline.schemas.environment import EnvironmentSpec


def read_interface(path: str | Path) -> InterfaceSpec:
    """Read an interface from a TOML or a JSON file.

    Raises
    ------
    UsageError
        It cannot be read, or is no interface.
    """
    tree = read_tree(path, "interface")
    try:
        return InterfaceSpec.model_validate_json(json.dumps(tree))
    except (ValidationError, TypeError) as error:
        raise UsageError(_sentence(error, path)) from None


def interface_of(spec: EnvironmentSpec) -> InterfaceSpec:
    """Return the interface that an environment gives its agents."""
    agents = {
        agent: AgentInterface(observation_width=width, blocks=spec.blocks[agent], actions=actions)
        for agent, width, actions in zip(
            spec.agents, spec.obs_widths, spec.action_names, strict=True
        )
    }
    return InterfaceSpec(name=spec.id, agents=agents)


def of_environment(name: str, settings: dict[str, Any]) -> InterfaceSpec:
    """Return the interface of an installed environment.

    Raises
    ------
    UnknownNameError, UsageError, MissingExtraError
        It cannot be loaded.
    """
    from kd_offline import environments

    environment = environments.load(name, **settings)
    try:
        return interface_of(environment.spec)
    finally:
        environment.close()


def _sentence(error: ValidationError | TypeError, path: str | Path) -> str:
    if isinstance(error, TypeError):
        return f"interface {str(path)!r} holds a date or a time: {error}; correct the file"
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the document"
    reason = first["msg"].removeprefix("Value error, ")
    return (
        f"interface {str(path)!r} is wrong at {where}: {reason[:1].lower()}{reason[1:]}; "
        "kd-offline schema interface tells what it holds"
    )
