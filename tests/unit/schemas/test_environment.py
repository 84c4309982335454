"""The description of full observations: there where it is used, absent elsewhere."""

from typing import Any

import pytest
from pydantic import ValidationError

from kd_offline.environments import load
from kd_offline.environments.stepping import full_spec
from kd_offline.schemas.environment import Blocks, EnvironmentSpec, FullObservation

PREDATORS = load("grid/predator_prey", size=4, n_predators=2, n_prey=2, view=3)


def test_a_spec_without_full_observations_is_the_document_of_earlier_versions() -> None:
    document = PREDATORS.spec.model_dump(mode="json")
    assert "full" not in document
    assert '"full"' not in PREDATORS.spec.model_dump_json()
    assert EnvironmentSpec.model_validate(document) == PREDATORS.spec


def test_full_observations_survive_a_round_trip() -> None:
    spec = full_spec(PREDATORS)
    assert EnvironmentSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.full is not None
    assert spec.full.width == 3 * 7 * 7 + 2
    assert spec.model_copy(update={"full": None}) == PREDATORS.spec


AGENTS = PREDATORS.spec.agents


@pytest.mark.parametrize(
    ("full", "reason"),
    [
        (
            {"widths": (9,), "blocks": {"predator_0": {}, "predator_1": {}}},
            "full widths must have 2 entries",
        ),
        ({"widths": (9, 9), "blocks": {AGENTS[0]: {}}}, "full blocks must name every agent once"),
        (
            {"widths": (9, 9), "blocks": {agent: {"prey": ((3, 10),)} for agent in AGENTS}},
            "full block 'prey' of 'predator_0' lies beyond its 9 numbers",
        ),
    ],
)
def test_full_observations_that_cannot_be_are_refused(full: dict[str, Any], reason: str) -> None:
    document = PREDATORS.spec.model_dump() | {"full": full}
    with pytest.raises(ValidationError, match=reason):
        EnvironmentSpec.model_validate(document)


def test_full_observations_count_among_what_a_team_may_see() -> None:
    agents = tuple(f"agent_{i}" for i in range(100))
    widths: tuple[int, ...] = (1 << 17,) * 100
    blocks: Blocks = {agent: {} for agent in agents}
    document = PREDATORS.spec.model_dump() | {
        "agents": agents,
        "obs_widths": (1,) * 100,
        "action_counts": (2,) * 100,
        "action_names": (("a", "b"),) * 100,
        "sides": {"team": agents},
        "blocks": blocks,
    }
    EnvironmentSpec.model_validate(document)
    full = FullObservation(widths=widths, blocks=blocks)
    with pytest.raises(ValidationError, match="agents may see 8,388,608 numbers together"):
        EnvironmentSpec.model_validate(document | {"full": full})
