"""Algorithms by name: what recipes, cards and curves say of theirs."""

import json
import subprocess
import sys

import pytest

from kd_offline.errors import CheckpointError, UnknownNameError, UsageError
from kd_offline.experts import checkpoint, curve
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.recipe import recipe_from, train_recipe
from kd_offline.schemas.expert import TrainProgress, TrainRecipe
from kd_offline.schemas.parts import PartRecord
from kd_offline.sealed_json import write_document
from kd_offline.testing.factories import environment_spec

SPREAD = "mpe/simple_spread_v3"


def card(**changes):
    spec = environment_spec((4, 4))
    recipe = recipe_from({"environment": spec.id})
    settings = {"environment": spec, "recipe": recipe, "agents": spec.agents, "parameters": {}}
    settings |= {"frames": 0, "seconds": 0.0, "threads": 1, "finished": False}
    return ExpertCard.model_validate(settings | changes)


def test_an_unknown_algorithm_is_refused_with_the_names_there_are():
    with pytest.raises(UnknownNameError, match=r"unknown algorithm 'mapo'.*mappo, ippo, vdn, qmix"):
        train_recipe(SPREAD, algorithm="mapo")


def test_every_algorithm_describes_itself_without_pytorch():
    code = (
        "import sys\n"
        "from kd_offline.experts.algorithms import ALGORITHMS\n"
        "from kd_offline.experts.recipe import train_recipe\n"
        "for name in ALGORITHMS.built_in:\n"
        f"    recipe = train_recipe({SPREAD!r}, algorithm=name)\n"
        "    part = ALGORITHMS.load(name)\n"
        "    assert part.description and part.figures and part.recorded(recipe).value_of\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "False", done.stderr


def test_shared_settings_have_the_defaults_of_the_algorithm():
    shared = {"environment": SPREAD, "frames": 100}
    assert recipe_from(TrainRecipe(**shared)) == train_recipe(SPREAD, settings={"frames": 100})
    valued = recipe_from(TrainRecipe(**shared, algorithm="qmix"))
    assert valued == train_recipe(SPREAD, algorithm="qmix", settings={"frames": 100})
    assert (valued.episodes_per_batch, valued.architecture.critic) == (32, "none")


def test_settings_of_another_algorithm_are_refused_and_say_whose_they_are():
    with pytest.raises(UsageError, match=r"clip means nothing to vdn, .* of mappo and ippo"):
        train_recipe(SPREAD, algorithm="vdn", settings={"clip": 0.3})
    with pytest.raises(UnknownNameError, match="unknown setting of the recipe 'clipp'"):
        train_recipe(SPREAD, settings={"clipp": 0.3})


def test_a_card_names_the_package_of_an_algorithm_that_is_not_installed(tmp_path):
    """Its recipe cannot be read, so the sentence says what to install."""
    part = PartRecord(kind="algorithm", name="distant", package="far-away", version="3.1")
    theirs = card(parts=(part,))
    unknown = theirs.recipe.model_copy(update={"algorithm": "distant"})
    write_document(tmp_path / checkpoint.CARD, theirs.model_copy(update={"recipe": unknown}))
    with pytest.raises(
        CheckpointError, match=r"cannot be used here: unknown algorithm 'distant'.*install that one"
    ):
        checkpoint.read_card(tmp_path)


def test_a_line_of_the_curve_has_the_figures_beside_the_other_fields():
    progress = TrainProgress(
        iteration=1, frames=25, seconds=0.1, returns={"team": 1.0}, figures={"entropy": 0.5}
    )
    text = curve.line(25, curve.metric_names(progress), "")
    assert list(json.loads(text)) == ["iteration", "frames", "seconds", "returns", "entropy"]
    assert TrainProgress.model_validate_json(text) == progress


@pytest.mark.parametrize("name", list(ALGORITHMS.built_in))
def test_what_is_not_ours_is_no_part_of_a_card(name):
    recipe = recipe_from({"environment": environment_spec((4, 4)).id, "algorithm": name})
    assert card(recipe=recipe).parts == ALGORITHMS.records([name]) == ()
    assert ALGORITHMS.origin(name).ours
