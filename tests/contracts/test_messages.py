"""The library speaks Python: options of the command line are named by the command line alone."""

import ast
import inspect
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest
import typer

import kd_offline
from kd_offline.cli.app import app
from kd_offline.datasets.edit.merge import MergeOptions
from kd_offline.datasets.sharing.signature import sign, verify_signature
from kd_offline.schemas.expert import TrainRecipe
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.record_recipe import RecordRecipe

ROOT = Path(kd_offline.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]")
# Options that are not ours, or not of the command line.
OTHERS = {
    "commands.py": "writes the commands that reports show",
    "generated_files.py": "is a program of its own, as its docstring says",
    "schemas/publish.py": "shows how that program is called",
    "reports/svg.py": "variables of a style sheet",
    "runs/provenance.py": "options of git",
    "exports/c_library.py": "options of make",
    "evaluation/engines.py": "options of a C compiler",
}


def modules():
    found = (path.relative_to(ROOT).as_posix() for path in sorted(ROOT.rglob("*.py")))
    return [name for name in found if not name.startswith("cli/")]


@cache
def tree(name):
    return ast.parse((ROOT / name).read_text("utf-8"))


def texts(name):
    """Return every string and every comment of a module with its line."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    source = (ROOT / name).read_text("utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def test_no_module_outside_the_command_line_names_an_option():
    found = [
        f"{name}:{line}: {text.strip()[:60]}"
        for name in modules()
        if name not in OTHERS
        for line, text in texts(name)
        if FLAG.search(text)
    ]
    assert found == []


@pytest.mark.parametrize("name", OTHERS)
def test_every_exception_is_still_needed(name):
    assert any(FLAG.search(text) for _, text in texts(name))


def commands(group=None, before=()):
    """Return all commands by their words."""
    group = typer.main.get_command(app) if group is None else group
    found = {}
    for name, command in group.commands.items():
        found[*before, name] = command
        if hasattr(command, "commands"):
            found |= commands(command, (*before, name))
    return found


COMMANDS = commands()
OPTIONS = {
    words: {each.name for each in command.params}
    | {flag.lstrip("-").replace("-", "_") for each in command.params for flag in each.opts}
    for words, command in COMMANDS.items()
}
FUNCTIONS = {
    name: set(inspect.signature(getattr(kd_offline, name)).parameters)
    for name in kd_offline.__all__
    if callable(getattr(kd_offline, name))
}
FUNCTIONS |= {
    each.__name__: set(inspect.signature(each).parameters)
    for each in (sign, verify_signature, MergeOptions)  # what merges are asked for
}
for name in ("record", "record_recipe"):  # they take the fields of their recipe
    FUNCTIONS[name] |= RecordRecipe.model_fields.keys()


def calls(function):
    """Return every call of a function with where it stands."""
    for name in modules():
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function:
                given = {each.arg: each.value for each in node.keywords if each.arg}
                yield f"{name}:{node.lineno}", node, given


def test_every_remedy_names_arguments_that_python_and_the_command_line_have():
    remedies = list(calls("Remedy"))
    assert len(remedies) > 40
    for place, _, given in remedies:
        arguments = given.keys() - {"operation"}
        if isinstance(given.get("operation"), ast.Constant):
            operation = ast.literal_eval(given["operation"])
            command = operation.removesuffix("_recipe").replace("_", "-")
            assert arguments <= FUNCTIONS[operation] & OPTIONS[command,], place
        else:
            assert arguments <= set().union(*FUNCTIONS.values()), place
            typed = arguments - {"duplicates"}  # its values are options of their own
            assert typed <= set().union(*OPTIONS.values()), place


def test_every_remedy_names_settings_that_a_recipe_has():
    recipes = DistillRecipe.model_fields | TrainRecipe.model_fields
    for place, _, given in calls("Remedy"):
        keys = given["settings"].keys if isinstance(given.get("settings"), ast.Dict) else []
        paths = {str(key.value) for key in keys if isinstance(key, ast.Constant)}
        assert {path.partition(".")[0] for path in paths} <= recipes.keys(), place


def test_every_command_of_a_report_exists_with_its_options():
    shown = list(calls("command_text"))
    assert len(shown) > 10
    for place, node, given in shown:
        # Names of the command come first, be it alone or in a tuple that is unpacked.
        words = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
        known = [w for w in COMMANDS if set(w) <= {*words}]
        if not known:  # the name is a variable
            continue
        command = max(known, key=len)
        assert given.keys() <= OPTIONS[command], place
