"""The lists of hashes say what pyproject.toml and constraints.txt say."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LISTS = sorted((ROOT / "requirements").glob("*.txt"))
ENTRY = re.compile(r"^(\S+)==(\S+)( ;.*)? \\\n((?:    --hash=.*\n)+)", re.MULTILINE)
APART = {"energy", "bench"}


def versions(path):
    """Return the version of every package of a list."""
    entries = ENTRY.findall(path.read_text("utf-8"))
    return {canonicalize_name(name): version for name, version, _, _ in entries}


LOCKED = {name: version for path in LISTS for name, version in versions(path).items()}
CHOSEN = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if "==" in line
}


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_a_list_holds_versions_with_hashes_and_nothing_else(path):
    text = path.read_text("utf-8")
    rest = ENTRY.sub("", text)
    assert all(line.startswith("#") for line in rest.splitlines())
    assert "://" not in text
    for _, _, _, hashes in ENTRY.findall(text):
        for line in hashes.splitlines():
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)


def test_every_wanted_package_is_in_a_list():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["build"]]
    wanted += PROJECT["dependency-groups"]["apart"]
    wanted += [one for name in extras if name not in APART for one in extras[name]]
    for line in wanted:
        one = Requirement(line)
        assert one.specifier.contains(LOCKED[canonicalize_name(one.name)]), f"{line}: make lock"


def test_the_demo_needs_the_package_and_two_extras_and_nothing_of_the_tests():
    """What `make demo` installs is enough for these, and brings none that tests alone need."""
    project, lists = PROJECT["project"], {path.stem: versions(path) for path in LISTS}
    installed = {name for path in ("build", "demo", "torch") for name in lists[path]}
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["torch"], *extras["report"]]
    assert {canonicalize_name(Requirement(line).name) for line in wanted} <= installed
    others = {
        name for extra in extras if extra not in ("torch", "report") for name in extras[extra]
    }
    apart = {canonicalize_name(Requirement(line).name) for line in others} - {"colorama", "pillow"}
    assert not apart & installed
    assert lists["demo"].keys() & lists["development"].keys() <= {"colorama"}
    assert len(installed) < len(LOCKED) / 3


def test_the_demo_is_installed_apart_and_first():
    text = (ROOT / "Makefile").read_text("utf-8")
    rules = dict(re.findall(r"^(\$\(\w+\)|[a-z]+): ([^|#\n]*).*\n", text, re.MULTILINE))
    assert rules["demo"].split() == ["$(DEMO_STAMP)"]
    assert rules["test"].split() == ["install"]
    assert rules["install"].split() == ["$(STAMP)"]
    assert rules["$(STAMP)"].split() == ["$(DEMO_STAMP)", "requirements/development.txt"]
    assert "%/development.txt" in rules["$(DEMO_STAMP)"]


def test_versions_are_those_of_the_constraints():
    assert {"torch", "numpy", "d3rlpy", "hatchling", "editables"} <= LOCKED.keys() & CHOSEN.keys()
    for name in LOCKED.keys() & CHOSEN.keys():
        assert LOCKED[name].split("+")[0] == CHOSEN[name], f"{name}: make lock"


def test_every_package_is_installed_by_its_hash():
    text = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(r"^LOCKED := \$\(PIP\) --require-hashes --no-deps$", text, re.MULTILINE)
    unlocked = re.findall(r"^\t\$\(PIP\) (.*)$", text, re.MULTILINE)
    assert unlocked == ["--no-deps --no-build-isolation -e ."]
    assert "pip install" not in (ROOT / ".ci" / "run").read_text("utf-8")
