"""Whatever a number in a file decides is bounded; what is only shown or compared is listed here."""

import inspect
import types
import typing
from typing import Annotated, Literal, get_args, get_origin

import annotated_types
import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kd_offline.distillation.terms import TERMS
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.schemas import publish
from kd_offline.schemas.collaboration import ObservationBlock
from kd_offline.schemas.dataset import Journal
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.export import AgentContract
from kd_offline.schemas.interface import AgentInterface
from kd_offline.schemas.recipes import DistillRecipe, StudentArchitecture
from kd_offline.schemas.sweep import SweepPlan
from kd_offline.students.families import FAMILIES

# Nothing is allocated, repeated or drawn by these: they are shown, compared, added up or hashed.
FIGURES = {
    "AdaptationReport": {"episodes", "evaluation_seed"},
    "AngleSettings": {"expert_every"},  # a remainder of a count
    "AgentBudget": {"hidden", "widest"},
    "AgentContract": {"parameters", "parameter_bytes", "macs", "zeros"},
    "AgentCost": {"inputs", "trunk", "gru", "actions", "parameters", "macs", "flops"}
    | {"elementwise", "zeros"},
    "AgentInterface": {"flash_bytes", "ram_bytes"},
    "AgentMemory": {"parameters_fp32", "parameters_fp16", "parameters_int8", "hidden"}
    | {"activation", "flash", "ram"},
    "Budget": {"max_macs"},
    "Comparison": {"decisions", "ties"},
    "Core": {"flash_bytes", "ram_bytes"},
    "CrossPlayMatrix": {"episodes", "evaluation_seed"},
    "DaggerRound": {"episodes", "number"},
    "EngineLatency": {"batch", "samples", "macs", "parameter_bytes"},
    "EpisodeCost": {"limit", "flops_at_limit"},
    "EvaluationReport": {"episodes", "evaluation_seed", "distillation_seeds"},
    "ExpertCard": {"parameters", "frames"},
    "ExpertRecord": {"parameters"},
    "ExpertWithCritic": {"parameters", "macs", "flops", "elementwise"},
    "ExportFacts": {"seed"},
    "ExportManifest": {"seed"},
    "FileFact": {"bytes"},  # read up to this and to a bound of the reader
    "FileRecord": {"size"},  # likewise
    "Gate": {"episodes", "steps"},
    "GreedyScore": {"episodes", "seed"},
    "Histogram": {"counts"},
    "JudgedBy": {"episodes"},
    "LatencyReport": {"rounds", "steps_per_round", "discarded_per_round", "seed"},
    "LinesRecord": {"bytes"},  # of what was read
    "Machine": {"cores", "memory_bytes"},
    "MeasuredEnergy": {"steps"},
    "Played": {"seeds", "episodes", "evaluation_seed"},
    "Provenance": {"threads"},
    "QLearning": {"target_every"},  # a remainder of a count
    "QuantisationReport": {"distillation_seeds", "episodes", "evaluation_seed"},
    "QuantisedTeams": {"parameter_bytes"},
    "RecordRecipe": {"seed"},
    "RecordingRecord": {"seed", "episodes", "batch", "settings", "machine"},
    "Robustness": {"seeds", "episodes", "evaluation_seed"},
    "RobustnessReport": {"batch", "episodes", "evaluation_seed", "distillation_seeds"},
    "RoleClusters": {"roles"},
    "SeedResult": {"seed", "updates", "best_epoch"},
    "SeedScore": {"seed"},
    "SharedErrors": {"episodes", "decisions"},
    "Sparsity": {"every"},  # a remainder of a count
    "SplitRecord": {"episodes", "steps"},
    "Start": {"seed"},
    "Statistics": {"episodes", "steps", "action_counts"},
    "StudentRecord": {"hidden", "parameters"},
    "SweepPlan": {"seed"},
    "SweepPoint": {"trial", "widths"},
    "SweepReport": {"failed"},
    "TeamCost": {"parameters", "parameters_once", "macs", "flops", "elementwise"},
    "TimedEngine": {"batch", "samples"},
    "TrainProgress": {"iteration", "frames"},
    "TrainRecipe": {"seed"},
    "ValueCalibration": {"episodes", "steps"},
}
# Bounded by something else than their type.
CHECKED = {
    "ArraySpec": {"shape"},  # kd_offline.datasets.format.resource_limits
    "Journal": {"episodes", "rows", "step_chunk_rows", "episode_chunk_rows"},  # against the chunks
    "RowSpec": {"tail"},  # with them
    "SparseMatrices": {"kept"},  # against the weights, by kd_offline.students.policy
    "StudentArchitecture": {"hidden"},  # by a validator, see below
}
SEEDS = {"DistillRecipe", "RunManifest", "StudentCard"}  # as many as a tuple may have
EVERYWHERE = {"version", "format_version"}
SETTINGS = {"environment_kwargs", "kwargs"}  # kd_offline.code_guard and the environment's own


def models():
    """Return every model of a file that may be a stranger's, with those inside it."""
    waiting = [publish.model(name) for name in publish.MODELS if not name.endswith("-output")]
    waiting += [Journal, SweepPlan]
    waiting += [TERMS.load(name).settings_type for name in TERMS]
    waiting += [FAMILIES.load(name).settings for name in FAMILIES]
    waiting += [ALGORITHMS.load(name).recipe for name in ALGORITHMS]
    found = set()
    while waiting:
        model = waiting.pop()
        if model in found:
            continue
        found.add(model)
        waiting += [
            leaf
            for field in model.model_fields.values()
            for leaf, _ in leaves(field.annotation, field.metadata)
            if inspect.isclass(leaf) and issubclass(leaf, BaseModel)
        ]
    return sorted(found, key=lambda model: model.__name__)


def leaves(annotation, metadata):
    """Yield the plain types inside a field's, each with what is demanded of it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        yield from leaves(inner, [*metadata, *more])
    elif origin in (typing.Union, types.UnionType):
        for part in get_args(annotation):
            yield from leaves(part, metadata)
    elif origin is not Literal and get_args(annotation):
        for part in get_args(annotation):
            yield from leaves(part, [])
    else:
        yield annotation, metadata


def bounded(metadata):
    flat = [
        m for item in metadata for m in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    return any(isinstance(m, annotated_types.Le | annotated_types.Lt) for m in flat)


def unbounded(model):
    return {
        name
        for name, field in model.model_fields.items()
        for leaf, metadata in leaves(field.annotation, field.metadata)
        if leaf is int and not bounded(metadata)
    }


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_number_is_bounded_or_decides_nothing(model):
    known = set(EVERYWHERE | SETTINGS)
    for base in model.__mro__:
        known |= FIGURES.get(base.__name__, set()) | CHECKED.get(base.__name__, set())
        known |= {"seeds"} if base.__name__ in SEEDS else set()
    assert not unbounded(model) - known, (
        "give it a type of kd_offline.schemas.bounds, or list it here if nothing is allocated, "
        "repeated or drawn by it"
    )


def test_what_is_listed_here_exists():
    there = {model.__name__: set(model.model_fields) for model in models()}
    for table in (FIGURES, CHECKED):
        assert all(names <= there[model] for model, names in table.items())


@pytest.mark.parametrize(
    "changed",
    [
        {"optimisation": {"epochs": 10**9}},
        {"optimisation": {"batch_episodes": 10**9}},
        {"student": {"hidden": 10**6}},
        {"student": {"hidden": [8, 10**6]}},
        {"seeds": list(range(2000))},
        {"threads": 10**6},
    ],
    ids=str,
)
def test_a_recipe_of_a_stranger_asks_for_no_more_than_any_student_needs(changed):
    with pytest.raises(ValidationError):
        DistillRecipe.model_validate(changed)


@pytest.mark.parametrize(
    ("term", "changed"),
    [
        ("policy", {"gae_horizon": 10**9}),
        ("structure", {"relation_width": 10**6}),
        ("role", {"roles": 10**6}),
    ],
)
def test_a_loss_term_asks_for_no_more_than_any_student_needs(term, changed):
    with pytest.raises(ValidationError):
        TERMS.load(term).settings_type.model_validate(changed)


@pytest.mark.parametrize("family", FAMILIES.built_in)
def test_a_student_family_asks_for_no_more_layers_than_any_student_needs(family):
    with pytest.raises(ValidationError):
        FAMILIES.load(family).settings.model_validate({"depth": 10**4})


def test_the_sentence_about_a_width_names_the_bound():
    with pytest.raises(ValidationError, match="must be at most 16,384 units wide"):
        StudentArchitecture(hidden=10**6)


SPEC = {
    "id": "x", "version": "1", "agents": ["a"], "obs_widths": [4], "action_counts": [2],
    "action_names": [["p", "q"]], "episode_limit": 5, "reward": "team", "sides": {"s": ["a"]},
    "state_width": 4, "state_is_obs": True, "blocks": {"a": {"all": [[0, 4]]}},
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"obs_widths": [10**12]},
        {"action_counts": [10**9]},
        {"state_width": 10**12},
        {"episode_limit": 10**9},
        {"blocks": {"a": {"all": [[0, 5]]}}},
        {"blocks": {"a": {"all": [[0, 4], [0, 4]]}}},
        {"blocks": {"a": {"all": [[0, 10**15]]}}},
    ],
    ids=str,
)
def test_an_environment_that_a_file_describes_is_no_larger_than_any(changed):
    EnvironmentSpec.model_validate(SPEC)
    with pytest.raises(ValidationError):
        EnvironmentSpec.model_validate(SPEC | changed)


def test_many_agents_that_see_much_are_refused_together():
    many = [f"a{k}" for k in range(4000)]
    wide = SPEC | {
        "agents": many, "obs_widths": [10_000] * 4000, "action_counts": [2] * 4000,
        "action_names": [["p", "q"]] * 4000, "sides": {"s": many}, "blocks": {a: {} for a in many},
    }  # fmt: skip
    with pytest.raises(ValidationError, match="may see 8,388,608 numbers together"):
        EnvironmentSpec.model_validate(wide)


CONTRACT = {
    "agent": "a", "symbol": "kd_a", "obs_width": 4, "seen": [0], "blocks": {}, "drawn": False,
    "mask_input": False, "inputs": 1, "actions": ["p", "q"], "memory": {"last_action": [0, 2]},
    "memory_width": 2, "widths": [3], "gru": None, "parameters": 1, "parameter_bytes": 1, "macs": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"memory": {"last_action": [0, 100_000]}, "memory_width": 100_000},
        {"memory": {"gru": [0, 100_000]}, "memory_width": 100_000, "gru": 8},
        {"memory": {"previous": [0, 9]}},
        {"memory_width": 10**12},
        {"obs_width": 10**9},
        {"widths": [10**9]},
        {"gru": 10**9},
    ],
    ids=str,
)
def test_an_export_claims_no_memory_that_its_network_has_not(changed):
    AgentContract.model_validate(CONTRACT)
    with pytest.raises(ValidationError):
        AgentContract.model_validate(CONTRACT | changed)


def test_ranges_of_a_profile_and_of_an_interface_are_not_longer_than_they_are_wide():
    block = {"name": "b", "ranges": [[0, 4]], "width": 4, "seen": [], "visibility": "hidden"}
    ObservationBlock.model_validate(block)
    claims: list[dict[str, typing.Any]] = [{"ranges": [[0, 10**15]]}, {"ranges": [[0, 4]] * 1000}]
    for changed in (*claims, {"width": 5}):
        with pytest.raises(ValidationError):
            ObservationBlock.model_validate(block | changed)
    face = {"observation_width": 4, "blocks": {"b": [[0, 4]]}, "actions": ["p"]}
    AgentInterface.model_validate(face)
    claims = [{"observation_width": 10**15}, {"blocks": {"b": [[0, 4]] * 1000}}]
    for changed in claims:
        with pytest.raises(ValidationError):
            AgentInterface.model_validate(face | changed)
