"""Who may load an environment or an expert by its name, and whose name that is."""

import ast
from functools import cache

import pytest

from tests.contracts.test_imports import ROOT, modules

# Names that a user typed or wrote in Python; those in files go through load_recorded.
NAMED_BY_THE_USER = {
    "__init__.py": "the facade",
    "cli/conversion.py": "convert --environment",
    "cli/information.py": "envs NAME",
    "deployment/check.py": "deploy-check --environment",
    "environments/parallel.py": "parallel_env(name)",
    "experts/train.py": "the recipe, whose file experts/recipe.py holds against the guard",
    "recording/setup.py": "record NAME",
}
IMPORTS = {
    "__init__.py": "our own modules",
    "cli/failures.py": "our own registries, by a table",
    "datasets/__init__.py": "our own modules",
    "datasets/convert/interchange.py": "libraries of a fixed name",
    "execution/ray.py": "the versions of libraries of fixed names, on a node",
    "environments/pettingzoo_spec.py": "what environments.load was given",
    "environments/smac/worker.py": "smac",
    "environments/smax/environment.py": "jaxmarl",
    "experts/importers/factory.py": "python:MODULE:NAME, as experts.load was given it",
    "registry.py": "our own modules, by a table; those of plug-ins come by entry points",
    "runs/doctor.py": "torch",
    "schemas/publish.py": "our own modules, by a table",
}


@cache
def calls(path):
    """Return the dotted names of everything that a module calls or imports as a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            names.add(ast.unparse(node.func))
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def users(wanted):
    found = {}
    for path in [ROOT / "__init__.py", *modules()]:
        if names := {name for name in calls(path) if wanted(name)}:
            found[str(path.relative_to(ROOT))] = names
    return found


def test_environments_are_loaded_by_name_where_the_name_is_the_users():
    loads = ("environments.load", "kd_offline.environments.load")
    assert set(users(lambda name: name in loads)) == set(NAMED_BY_THE_USER)


def test_modules_are_imported_by_name_in_few_places():
    assert set(users(lambda name: name.endswith("import_module"))) == set(IMPORTS)


@pytest.mark.parametrize("name", ["__import__", "exec", "eval", "compile", "pickle.loads"])
def test_nothing_else_turns_text_into_code(name):
    # An error of a worker process is read again right where it was made, to see whether it can be.
    # Tasks and results of a Ray cluster travel as pickles between processes of one user.
    allowed = {"execution/base.py", "execution/ray.py"} if name == "pickle.loads" else set()
    assert set(users(lambda called: called == name)) == allowed
