"""The recipe of a recording: from a file, single settings and the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.recording.recipe import RecordSettings, record_recipe
from kd_offline.recording.record import record
from kd_offline.schemas.dataset import NoiseLevel
from kd_offline.schemas.record_recipe import DEFAULT_NOISE, RecordRecipe

SPREAD = "mpe/simple_spread_v3"


def test_what_is_given_beats_the_file_which_beats_the_defaults(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(
        'episodes = 100\nseed = 4\nnoise_mixture = "0:0.5,0.25:0.5"\n[environment_kwargs]\nn = 3\n'
    )
    recipe = record_recipe(
        file=file, settings={"environment_kwargs.n_agents": 2}, seed=5, expert=Path("mine")
    )
    assert (recipe.environment, recipe.episodes, recipe.seed) == (SPREAD, 100, 5)
    assert recipe.environment_kwargs == {"n": 3, "n_agents": 2}
    assert recipe.noise_mixture == (
        NoiseLevel(level=0, share=0.5),
        NoiseLevel(level=0.25, share=0.5),
    )
    assert recipe.expert == ("mine",)


@pytest.mark.parametrize(("text", "levels"), [("none", ()), ("default", DEFAULT_NOISE)])
def test_noise_has_names(text, levels):
    assert record_recipe(SPREAD, noise_mixture=text).noise_mixture == levels
    given = record_recipe(SPREAD, noise_mixture=None if text == "none" else DEFAULT_NOISE)
    assert given.noise_mixture == levels


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"episodes": 0}, "episodes is 0, which should be greater than 0"),
        ({"threads": 0}, "threads is 0, which should be greater than 0"),
        ({"seed": -1}, "seed is -1, which should be greater than or equal to 0"),
        ({"embedding_dtype": "float8"}, "'float8', which should be 'float16' or 'float32'"),
        ({"noise_mixture": "0:0.5"}, "is not a mixture: .* shares that add up to 1"),
        ({"noise_mixture": "2:1"}, "is not a mixture: write default, none, or LEVEL:SHARE"),
        ({"partner_share": 1.5}, "partner_share is 1.5, which should be less than or equal to 1"),
    ],
)
def test_impossible_settings_are_one_sentence(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        record_recipe(SPREAD, **settings)


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(UnknownNameError, match=r"setting of the recipe 'episode': .*'episodes'"):
        record_recipe(SPREAD, episode=3)  # type: ignore[call-arg]


def test_settings_beside_a_whole_recipe_are_not_lost(tmp_path):
    with pytest.raises(UsageError, match="seed, batch given beside a whole recipe"):
        record(record_recipe(SPREAD), tmp_path / "d", seed=1, batch=2)


FOREIGN = [
    ('environment = "pettingzoo/os:system"', "run kd-offline record pettingzoo/os:system"),
    ('expert = "python:os:getcwd"', "pass --expert python:os:getcwd"),
    ('expert = "some/folder"', "pass --expert some/folder"),
    ('opponents = ["bundled", "onnx:x"]', "pass --opponents onnx:x"),
    ('partner = "../run"', "pass --partner ../run"),
    ('masks = ["full", "/etc/passwd"]', "pass --mask /etc/passwd"),
    ('expert_recipe = "/dev/zero"', "pass --expert-recipe /dev/zero"),
]


@pytest.mark.parametrize(("text", "told"), FOREIGN)
def test_a_recipe_that_travelled_chooses_no_code_and_no_file(tmp_path, text, told):
    (tmp_path / "r.toml").write_text(text)
    done = CliRunner().invoke(app, ["record", "--recipe", str(tmp_path / "r.toml"), "--dry-run"])
    assert done.exit_code == 2
    assert told in done.stderr


def test_what_is_named_beside_a_recipe_is_the_users_own(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('partner = "../run"\nmasks = ["a/b.toml"]\nexpert = "e/"\nopponents = ["o/"]')
    own = {"partner": "../run", "masks": ["a/b.toml"], "expert": "e/", "opponents": ["o/"]}
    assert record_recipe(file=file, **own).partner == "../run"
    named = "pettingzoo/a:b"
    file.write_text(f'environment = "{named}"\n[environment_kwargs]\nlayout = "/etc/passwd"\n')
    with pytest.raises(UsageError, match="sets layout of the environment"):
        record_recipe(named, file=file)
    with pytest.raises(UsageError, match=r"run record_recipe\(environment='pettingzoo/a:b'\)"):
        record_recipe(file=file)
    given = {"environment_kwargs.layout": "mine"}
    assert record_recipe(named, file=file, settings=given).environment_kwargs["layout"] == "mine"


def test_the_command_line_makes_the_recipe_and_its_defaults_are_the_recipes():
    def resolved(*words):
        done = CliRunner().invoke(app, ["record", *words, "--dry-run"])
        assert done.exit_code == 0, done.output
        return RecordRecipe.model_validate(json.loads(done.stdout))

    assert resolved() == RecordRecipe()
    made = resolved(
        *("smax/3m", "--episodes", "7", "--noise", "none", "--mask", "full", "--mask", "paper"),
        *("--env", "n=2", "--embedding", "float32", "--partner", "none", "--set", "seed=3"),
    )
    assert made == RecordRecipe(
        environment="smax/3m",
        episodes=7,
        noise_mixture=(),
        masks=("full", "paper"),
        environment_kwargs={"n": 2},
        embedding_dtype="float32",
        partner="none",
        seed=3,
    )


def test_settings_by_keyword_are_those_of_the_recipe():
    assert RecordSettings.__annotations__.keys() == RecordRecipe.model_fields.keys() - {
        "environment"
    }
