import json
from typing import Any, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from kd_offline.cli import distillation, experts
from kd_offline.cli.app import app
from kd_offline.cli.recipe_options import Setting, recipe_options
from kd_offline.distillation.terms import TERMS
from kd_offline.experts.recipe import train_recipe
from kd_offline.recipes import paths
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.recipes import DistillRecipe

DISTILL = """--output --method --preset --mask --hidden --arch --depth --dueling --seeds --epochs
--batch --learning-rate --temperature --q-temperature --kl-weight --ce-weight --structure-weight
--role-weight --policy-weight --entropy-weight --regression-weight --policy-term --judge-by
--memory-mb --device --max-latency-us --max-flash-kb --max-ram-kb --max-macs --max-energy-uj
--precision --qat --shared-device --allocate --recipe --set --resume --overwrite --threads --json
--dry-run --quiet --debug"""
TRAIN = """--output --algorithm --mask --hidden --gru --mlp --widths --share --separate --critic
--frames --seed --side --opponents --teacher --from --seed-of-run --score --env --recipe --set
--resume --threads --json --dry-run --quiet --debug"""


RECORD = """--output --expert --expert-recipe --opponents --episodes --seed --noise --partner
--partner-share --mask --batch --embedding --name --description --licence --citation --env --resume
--overwrite --threads --track --json --recipe --set --dry-run --quiet --debug"""


def resolved(*words):
    done = CliRunner().invoke(app, [*words, "--dry-run"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "known"), [("distill", DISTILL), ("train", TRAIN), ("record", RECORD)]
)
def test_every_option_that_there_was_is_there(name, known):
    group: Any = typer.main.get_command(app)
    command = group.commands[name]
    given = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    assert set(known.split()) <= given


class Inner(Strict):
    rate: float = Field(default=0.5, gt=0, description="of learning, at first")
    kind: Literal["gru", "mlp"] = Field(default="gru", description="with or without memory")
    part: str | None = Field(default=None, description="that is held out; None: heldout")
    deep: bool = Field(default=False, description="more layers")


class Recipe(Strict):
    inner: Inner = Inner()


SETTINGS = {
    "rate": Setting("inner.rate"),
    "arch": Setting("inner.kind"),
    "part": Setting("inner.part"),
    "deep": Setting("inner.deep"),
    "other": Setting("parts.x", help="Of a part", kind=int),
}


@pytest.fixture
def small():
    """A command whose options are settings, and what it was called with."""
    called = []
    made = typer.Typer(rich_markup_mode=None)

    def run(name: str, *, chosen: dict[str, object], twice: bool = False) -> None:
        called.append((name, chosen, twice))

    made.command()(recipe_options(Recipe, SETTINGS)(run))
    return made, called


def test_a_command_gets_the_settings_that_were_given_by_their_paths(small):
    made, called = small
    words = ["x", "--rate", "0.25", "--arch", "mlp", "--deep", "--other", "3", "--twice"]
    assert CliRunner().invoke(made, words).exit_code == 0
    assert CliRunner().invoke(made, ["y"]).exit_code == 0
    given = {"inner.rate": 0.25, "inner.kind": "mlp", "inner.deep": True, "parts.x": 3}
    assert called == [("x", given, True), ("y", {}, False)]


def test_help_states_description_allowed_values_and_default(small):
    text = " ".join(CliRunner().invoke(small[0], ["--help"], env={"COLUMNS": "300"}).output.split())
    assert "Of learning, at first. [default: 0.5]" in text
    assert "With or without memory: gru or mlp. [default: gru]" in text
    assert "That is held out. [default: heldout]" in text
    assert "--deep More layers. --" in text
    assert "Of a part." in text


def test_settings_of_distill_are_in_its_recipe():
    known = paths(DistillRecipe(budget={"max_macs": 1}).model_dump())
    parts = {one.path for one in distillation._SETTINGS.values()} - known
    weights = {path for path in parts if path.startswith("weights.")}
    assert weights <= {f"weights.{name}" for name in TERMS}
    assert parts - weights == {"student.depth", "terms.kl.temperature", "terms.policy.form"}
    recipe = resolved("distill", "d.zarr", "--arch", "mlp", "--kl-weight", "0.5", "--max-macs", "9")
    assert (recipe["student"]["family"], recipe["weights"]["kl"]) == ("mlp", 0.5)
    assert recipe["budget"]["max_macs"] == 9


def test_settings_of_train_are_in_its_recipe():
    known = paths(train_recipe("mpe/simple_spread_v3").model_dump())
    parts = {one.path for one in experts._SETTINGS.values()} - known
    assert parts == {"kickstart.teacher", "mixer", "architecture.view", "accelerator"}
    words = ("--separate", "--frames", "800", "--teacher", "bundled", "--mask", "limited")
    recipe = resolved("train", "mpe/simple_spread_v3", *words)
    assert recipe["architecture"]["share"] is False
    assert (recipe["frames"], recipe["mask"]) == (800, "limited")
    assert recipe["kickstart"]["teacher"] == "bundled"
