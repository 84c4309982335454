"""Documents tell the truth: commands parse, every block is typed, links lead somewhere."""

import json
import re
import shlex
import tomllib
from pkgutil import resolve_name
from typing import Any

import pytest
import typer.main

from kd_offline import environments
from kd_offline.cli.app import app
from kd_offline.distillation.methods import METHODS
from kd_offline.distillation.terms import TERMS
from kd_offline.distillation.terms.active import term_type
from kd_offline.experts.checkpoint import read_card
from kd_offline.experts.importers.expert import probe
from kd_offline.experts.importers.load import PREFIXES
from kd_offline.experts.load import bundled_folder
from kd_offline.experts.recipe import train_recipe
from kd_offline.schemas.foreign import InputRecipe
from kd_offline.schemas.hardware import HardwareProfile
from kd_offline.schemas.interface import InterfaceSpec
from kd_offline.schemas.mask import MaskFile
from kd_offline.schemas.recipes import Objective
from kd_offline.schemas.record_recipe import RecordRecipe
from tests.docs import test_pages, test_training_pages
from tests.docs.pages import BLOCK, GUIDE, ROOT, TYPED, blocks, lines

PUBLISHED = [
    path for name in ("cli", "datasets", "schemas") for path in ROOT.glob(f"{name}/**/*.md")
]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *PUBLISHED]
)
RECIPES = sorted((ROOT / "cli" / "recipes" / "bundled").glob("*.toml"))
PARTS = ("kd_offline", "tests", "benchmarks", "docs")
GROUPS = {
    f"kd_offline.{part}"
    for part in ("terms", "algorithms", "observers", "perturbations", "executors")
}  # of entry points that are no packages
PARSER = typer.main.get_command(app)
# Commands are built once, and keep the names that the first context gives to the help option.
WHOLE = typer.Context(PARSER, **PARSER.context_settings)
PAGES = [ROOT / "README.md", *sorted(GUIDE.glob("*.md"))]
# Blocks that nobody types here: page, first words, reason.
NOT_TYPED = {
    ("README", "make demo"): "what .ci/run does itself",
    ("budgets", "kd-offline distill dataset.zarr -o tiny/"): "a command with its refusal",
    ("combat", "pip install git+"): "needs the network",
    ("combat", "kd-offline record smac/3m"): "needs StarCraft II",
    (
        "converting",
        "kd-offline convert 3m.vlt/Good",
    ): "files of others; tests/compatibility has some",
    ("extending", "pip install ."): "tests/conftest.py does it",
    ("export", "obs, memory, legal actions"): "a signature",
    ("quickstart", "pip install '.["): "installs",
    ("quickstart", "uv pip install"): "installs",
    ("scale", "kd-offline train"): "needs a Ray cluster; tests/unit/experts/test_train_all.py and "
    "others type such commands",
    (
        "scale",
        "kd-offline sweep",
    ): "needs Ray and PostgreSQL, see tests/unit/sweeps/test_studies.py",
    ("scale", "torchrun"): "tests/docs/test_job_scripts.py starts its processes",
    (
        "scale",
        "kd-offline record mpe/simple_spread_v3 --episodes 1000 --shard 3/64",
    ): "a bucket; tests/unit/recording/test_addresses.py has one",
    ("scale", "kd-offline doctor s3:"): "the same",
    ("scale", "#!/bin/bash\n#SBATCH --job-name=record"): "tests/docs/test_job_scripts.py types it",
    ("scale", "#!/bin/bash\n#SBATCH --job-name=merge"): "tests/docs/test_job_scripts.py types it",
    ("sharing", "kd-offline inspect https://"): "an address of others; tests/end_to_end shares",
    (
        "sharing",
        "kd-offline push dataset.zarr s3://",
    ): "a bucket of others; tests/end_to_end shares",
    ("sharing", "kd-offline pull https://"): "an address of others; tests/end_to_end shares",
}
# Options in prose that belong to other programs.
FOREIGN_OPTIONS = {
    "--use_ReLU",
    "--torch-backend",
    "--logdir",
    "--dependency",
    "--head",
    "--address",
}


def relative(path):
    return str(path.relative_to(ROOT))


def commands(path):
    for language, text in blocks(path):
        if language in ("", "sh") or (language == "text" and path in PAGES):
            for line in lines(text):
                if line.startswith("kd-offline "):
                    yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_command_exists_with_its_options(path):
    for name, *arguments in commands(path):
        command = PARSER.commands[name]  # type: ignore[attr-defined]
        command.make_context(name, arguments, parent=WHOLE, resilient_parsing=False)


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_link_leads_somewhere(path):
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_page_is_typed():
    typed = [*test_pages.PAGES, *test_training_pages.PAGES]
    assert sorted(path.stem for path in PAGES) == sorted(x for x in typed if "api/" not in x)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_every_block_is_typed_or_says_that_it_is_not(path):
    assert not re.search(r"^    kd-offline ", path.read_text("utf-8"), re.MULTILINE)
    left = {(page, words) for page, words in NOT_TYPED if page == path.stem}
    for language, text in blocks(path):
        assert language in (*TYPED, "text", "mermaid"), f"what language is this?\n{text}"
        if language == "text":
            assert any(text.startswith(words) for _, words in left), f"why not typed?\n{text}"
            left = {(page, words) for page, words in left if not text.startswith(words)}
    assert not left


def test_every_option_in_prose_exists():
    known = {"-h", "--help", "--version", *FOREIGN_OPTIONS}
    for command in walk(PARSER):
        known |= {name for x in command.params for name in (*x.opts, *x.secondary_opts)}
    for path in PAGES:
        for said in re.findall(r"`([^`\n]*)`", BLOCK.sub("", path.read_text("utf-8"))):
            for option in re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", said):
                assert option in known, f"{path.name}: {said}"


def walk(command):
    yield command
    for one in getattr(command, "commands", {}).values():
        yield from walk(one)


def test_tests_that_a_page_names_exist():
    for path in PAGES:
        named = r"`(tests/[\w/]+\.py)(?:::(\w+))?(?:\[[^`]*\])?`"
        for file, test in re.findall(named, path.read_text("utf-8")):
            assert (ROOT / file).is_file(), f"{path.name}: {file}"
            defined = re.findall(r"^ *def (\w+)\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)
            assert not test or test in defined, f"{path.name}: {file}::{test}"


@pytest.mark.parametrize("kind", ["names", "files"])
def test_modules_that_a_document_names_exist(kind):
    code = [path.as_posix() for name in PARTS for path in (ROOT / name).rglob("*.py")]
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        if kind == "names":
            for name in set(re.findall(r"\bkd_offline(?:\.\w+)+", text)) - GROUPS:
                assert resolve_name(name) is not None, f"{relative(path)}: {name}"
        for file in re.findall(r"`([\w/]+\.py)`", text) if kind == "files" else ():
            assert any(one.endswith(f"/{file}") for one in code), f"{relative(path)}: {file}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_toml_block_is_a_mask_or_an_expert_recipe(path):
    for language, text in blocks(path):
        if language == "toml" and path.stem == "bring-your-own-expert":
            InputRecipe.model_validate({"library": "epymarl"} | tomllib.loads(text))
        elif language == "toml" and path.stem == "cost":
            HardwareProfile.model_validate(tomllib.loads(text))
        elif language == "toml" and path.stem == "deployment":
            InterfaceSpec.model_validate_json(json.dumps(tomllib.loads(text)))
        elif language == "toml" and path.stem == "extending":
            assert "entry-points" in tomllib.loads(text)["project"]
        elif language == "toml" and path.stem == "recording":
            RecordRecipe.model_validate(tomllib.loads(text))
        elif language == "toml":
            MaskFile.model_validate(tomllib.loads(text))


def test_the_policy_of_ones_own_acts():
    code = next(t for x, t in blocks(GUIDE / "bring-your-own-expert.md") if x == "python")
    names: dict[str, Any] = {}
    exec(compile(code, "guide", "exec"), names)
    spec = environments.load("mpe/simple_spread_v3").spec
    assert probe(names["factory"](spec), spec, "guide").logits.argmax(-1).max() == 0


def test_every_library_and_setting_is_in_the_guide():
    text = (ROOT / "docs" / "guide" / "bring-your-own-expert.md").read_text("utf-8")
    for prefix in PREFIXES:
        assert f"| `{prefix}:" in text, prefix
    recipe = next(t for x, t in blocks(GUIDE / "bring-your-own-expert.md") if x == "toml")
    stated = set(tomllib.loads(recipe)) | {"library", "algorithm", "output", "groups"}
    assert stated == set(InputRecipe.model_fields)


def test_the_table_of_bundled_experts_is_theirs():
    text = (ROOT / "docs" / "guide" / "experts.md").read_text("utf-8")
    cards = sorted((ROOT / "kd_offline" / "experts" / "bundled").glob("*/*/expert.json"))
    assert cards
    for file in cards:
        card = read_card(file.parent)
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
    teacher = tomllib.loads(file.read_text("utf-8")).get("kickstart", {}).get("teacher")
    named = {"kickstart.teacher": teacher} if teacher else {}  # as by --teacher
    recipe = train_recipe(file=file, settings=named)
    folder = bundled_folder(recipe.environment, file.stem.rpartition("-")[2])
    assert read_card(folder).recipe == recipe


def test_every_term_setting_and_method_is_explained():
    losses, ways = (
        (ROOT / "docs" / "guide" / f"{page}.md").read_text("utf-8")
        for page in ("losses", "methods")
    )
    for name in Objective.model_fields:
        assert f"`objective.{name}`" in losses, name
    for term in TERMS:
        for name in term_type(term).settings_type.model_fields.keys() - {"warmup"}:
            assert f"`terms.{term}.{name}`" in losses + ways, (term, name)
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", losses, re.MULTILINE)
    assert re.findall(r"\w+", " ".join(rows)) == list(TERMS)
    methods = ways + (ROOT / "docs" / "guide" / "distillation.md").read_text("utf-8")
    for name in METHODS:
        assert f"| `{name}`" in methods, name
