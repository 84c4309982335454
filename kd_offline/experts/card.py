"""``expert.json``: the card of an expert, stored beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, GetJsonSchemaHandler, RootModel, SerializeAsAny, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.recipe import recipe_from
from kd_offline.schemas.bounds import Threads
from kd_offline.schemas.document import Document, LinesRecord
from kd_offline.schemas.environment import EnvironmentSpec, Strict
from kd_offline.schemas.expert import GreedyScore, TrainRecipe
from kd_offline.schemas.parts import PartRecord


class _RecipesOfOurs:
    """What a JSON Schema says of recipes: those of our algorithms, and what older files add."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        ours = dict.fromkeys(ALGORITHMS.load(name).recipe for name in ALGORITHMS.built_in)
        found = []
        for recipe in ours:
            described = handler.resolve_ref_schema(handler(recipe.__pydantic_core_schema__))
            described.pop("additionalProperties", None)
            found.append(described)
        return {"anyOf": found}


Recipe = Annotated[TrainRecipe, SerializeAsAny(), _RecipesOfOurs()]


class RecipeDocument(RootModel[Recipe]):
    """All settings that determine a training, validated by its algorithm."""


class ExpertCard(Document):
    """The content of ``expert.json``, which describes the weights beside it."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    format_version: tuple[int, int] = (1, 2)
    environment: EnvironmentSpec
    recipe: Recipe
    agents: tuple[str, ...]
    parameters: dict[str, int] = Field(description="actor, and critic or mixer, every network once")
    mask: tuple[tuple[bool, ...], ...] | None = Field(
        default=None, description="[N, O], what the actor may see; None: everything"
    )
    frames: int
    seconds: float
    threads: Threads
    finished: bool
    greedy: GreedyScore | None = None
    software: dict[str, str] = Field(default_factory=dict)
    device: str = Field(
        default="cpu",
        exclude_if=lambda name: name == "cpu",
        description="what it was trained on: what recipe.accelerator came to",
    )
    parts: tuple[PartRecord, ...] = Field(
        default=(),
        description="that installed plug-ins added: algorithm or environment",
    )
    weights: str | None = Field(
        default=None, description="sha256 of the file weights.safetensors; from 1.1 on"
    )
    curve: LinesRecord | None = Field(default=None, description="of curve.jsonl")

    @model_validator(mode="before")
    @classmethod
    def _recipe_of_its_algorithm(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not isinstance(
            given.get("recipe"), Mapping | TrainRecipe
        ):
            return given
        recipe, parts = given["recipe"], given.get("parts")
        if isinstance(recipe, Mapping) and isinstance(parts, list | tuple):
            for part in filter(lambda each: isinstance(each, Mapping), parts):
                stated = f"{part.get('package')} {part.get('version')}"
                ALGORITHMS.require(str(recipe.get("algorithm")), package=stated)
        return {**given, "recipe": recipe_from(recipe)}

    @model_validator(mode="after")
    def _consistent(self) -> ExpertCard:
        spec, recipe = self.environment, self.recipe
        if (self.agents, recipe.environment) != (spec.agents, spec.id):
            msg = "agents and recipe.environment must be those of environment"
            raise ValueError(msg)
        for name, value in recipe.environment_kwargs.items():
            if type(value) is type(spec.kwargs.get(name)) and value != spec.kwargs[name]:
                msg = f"recipe.environment_kwargs and environment.kwargs differ in {name}"
                raise ValueError(msg)
        rows = self.mask
        if rows is not None and [len(row) for row in rows] != [spec.obs_width] * spec.n_agents:
            msg = f"mask must have the shape {[spec.n_agents, spec.obs_width]}"
            raise ValueError(msg)
        if rows is not None and recipe.architecture.view != "local":
            msg = f"actors of the view {recipe.architecture.view} see through no mask"
            raise ValueError(msg)
        return self


class TrainSeedsOutput(Strict):
    """JSON output of a training of several seeds."""

    experts: dict[str, ExpertCard] = Field(description="by the folder within the output")
