"""Code in documents works: commands parse, README and quickstart run, links lead somewhere."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from kd_offline import environments
from kd_offline.cli.app import app
from kd_offline.distillation.methods import METHODS
from kd_offline.experts.checkpoint import read_card
from kd_offline.experts.foreign.expert import probe
from kd_offline.experts.foreign.load import PREFIXES
from kd_offline.experts.load import bundled_folder
from kd_offline.experts.recipe import train_recipe
from kd_offline.schemas.expert import ExpertCard
from kd_offline.schemas.foreign import InputRecipe
from kd_offline.schemas.hardware import HardwareProfile
from kd_offline.schemas.interface import InterfaceSpec
from kd_offline.schemas.mask import MaskFile
from kd_offline.schemas.recipes import LossSwitches, LossWeights

ROOT = Path(__file__).parents[2]
PUBLISHED = [
    path for name in ("cli", "datasets", "schemas") for path in ROOT.glob(f"{name}/**/*.md")
]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *PUBLISHED]
)
GUIDE = ROOT / "docs" / "guide"
RECIPES = sorted((ROOT / "cli" / "recipes" / "bundled").glob("*.toml"))
EXECUTED = [ROOT / "README.md"]
EXECUTED += [
    GUIDE / f"{name}.md"
    for name in (
        "quickstart",
        "environments",
        "integrity",
        "sharing",
        "inspecting",
        "converting",
        "export",
        "cost",
        "deployment",
        "budgets",
        "quantisation",
    )
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = {
    "train": ["--frames", "6400", "--score", "8", "--threads", "1"],
    "record": ["--episodes", "80", "--threads", "1"],
    "distill": ["--epochs", "1", "--threads", "1"],
    "sweep": ["--trials", "2", "--epochs", "1", "--episodes", "50"],
    "evaluate": ["--episodes", "20", "--threads", "1"],
    "profile": ["--episodes", "20"],
    "bench quantisation": ["--episodes", "20"],
    "bench latency": ["--rounds", "2", "--steps", "5"],
    "doctor calibrate": ["--rounds", "2", "--steps", "5", "--widths", "8,16,24"],
}


def relative(path):
    return str(path.relative_to(ROOT))


def blocks(path):
    return BLOCK.findall(path.read_text("utf-8"))


def commands(path):
    for language, text in blocks(path):
        if language in ("", "sh"):
            for line in text.splitlines():
                if line.startswith("kd-offline "):
                    yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_command_exists_with_its_options(path):
    group = typer.main.get_command(app)
    for name, *arguments in commands(path):
        command = group.commands[name]  # type: ignore[attr-defined]
        command.make_context(name, arguments, resilient_parsing=False)


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_link_leads_somewhere(path):
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", EXECUTED, ids=relative)
def test_it_runs_as_it_stands(path, tmp_path, monkeypatch):
    """Sizes are made small; everything else is what a reader would type."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_OFFLINE_CACHE", "cache")
    for language, text in blocks(path):
        if language == "sh":
            for line in text.splitlines():
                name, *arguments = shlex.split(line, comments=True)[1:]
                less = SMALL.get(" ".join([name, *arguments[:1]]), SMALL.get(name, []))
                done = CliRunner().invoke(app, [name, *arguments, *less])
                assert done.exit_code == 0, f"{line}\n{done.output}"
        elif language == "python":
            small = re.sub(r"episodes=[\d_]+", "episodes=80", text)
            small = small.replace("seeds=2", 'settings={"optimisation.epochs": 1, "threads": 1}')
            exec(compile(small, relative(path), "exec"), {})


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_toml_block_is_a_mask_or_an_expert_recipe(path):
    for language, text in blocks(path):
        if language == "toml" and path.stem == "bring-your-own-expert":
            InputRecipe.model_validate({"library": "epymarl"} | tomllib.loads(text))
        elif language == "toml" and path.stem == "cost":
            HardwareProfile.model_validate(tomllib.loads(text))
        elif language == "toml" and path.stem == "deployment":
            InterfaceSpec.model_validate_json(json.dumps(tomllib.loads(text)))
        elif language == "toml":
            MaskFile.model_validate(tomllib.loads(text))


def test_the_policy_of_ones_own_acts():
    text = (ROOT / "docs" / "guide" / "bring-your-own-expert.md").read_text("utf-8")
    code = next(t for language, t in BLOCK.findall(text) if language == "python")
    names: dict[str, Any] = {}
    exec(compile(code, "guide", "exec"), names)
    spec = environments.load("mpe/simple_spread_v3").spec
    assert probe(names["factory"](spec), spec, "guide").logits.argmax(-1).max() == 0


def test_every_library_and_setting_is_in_the_guide():
    text = (ROOT / "docs" / "guide" / "bring-your-own-expert.md").read_text("utf-8")
    for prefix in PREFIXES:
        assert f"| `{prefix}:" in text, prefix
    recipe = next(t for language, t in BLOCK.findall(text) if language == "toml")
    stated = set(tomllib.loads(recipe)) | {"library", "algorithm", "output", "groups"}
    assert stated == set(InputRecipe.model_fields)


def test_the_table_of_bundled_experts_is_theirs():
    text = (ROOT / "docs" / "guide" / "experts.md").read_text("utf-8")
    cards = sorted((ROOT / "kd_offline" / "experts" / "bundled").glob("*/*/expert.json"))
    assert cards
    for file in cards:
        card = ExpertCard.model_validate_json(file.read_bytes())
        assert card.greedy is not None
        assert (card.greedy.episodes, card.greedy.seed, card.threads) == (4000, 0, 1)
        said = [f"| {card.parameters['actor']:,} |", f"| {card.seconds:,.0f} s |"]
        for side, value in card.greedy.returns.items():
            said.append(f"{value:.2f} ± {card.greedy.standard_errors[side]:.2f}")
        if card.greedy.won is not None:
            said.append(f"| `{card.recipe.environment}` |")
            said.append(f"{card.greedy.won * 4000:,.0f} of 4,000 battles won")
        assert any(all(x in row for x in said) for row in text.splitlines()), file


@pytest.mark.parametrize(
    "file",
    sorted((ROOT / "cli" / "recipes" / "bundled").glob("*.toml")),
    ids=lambda file: file.stem,
)
def test_bundled_experts_were_made_by_their_recipes(file):
    recipe = train_recipe(file=file)
    folder = bundled_folder(recipe.environment, file.stem.rpartition("-")[2])
    assert read_card(folder).recipe == recipe


def test_every_weight_switch_and_method_is_explained():
    losses = (ROOT / "docs" / "guide" / "losses.md").read_text("utf-8")
    for name in (*LossWeights.model_fields, *LossSwitches.model_fields):
        assert f"{name}`" in losses, name
    table = re.findall(r"^\| `(\w+)` \|", losses, re.MULTILINE)
    assert table == list(LossWeights.model_fields)
    methods = (ROOT / "docs" / "guide" / "distillation.md").read_text("utf-8")
    for name in METHODS:
        assert f"| `{name}` |" in methods, name
