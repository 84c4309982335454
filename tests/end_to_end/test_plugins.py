"""Loss terms of another package, installed by pip: recipes, runs, repetitions, refusals."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd_offline import distill, distill_recipe, rerun
from kd_offline.distillation import distill as module
from kd_offline.distillation.terms import TERMS
from kd_offline.errors import MismatchError, UnknownNameError, UsageError, UserCodeError
from kd_offline.robustness.perturbations import PERTURBATIONS
from kd_offline.runs.folder import open_run
from kd_offline.testing.factories import tiny_dataset
from kd_offline.testing.perturbations import check_perturbation
from kd_offline.testing.terms import check_term
from kd_offline.tracking.base import FunctionObserver

ROOT = Path(__file__).parents[2]
TERM = "reward_prediction"
SMALL = {"optimisation.epochs": 2, "optimisation.batch_episodes": 4, "student.hidden": 4}
WEIGHT = {f"weights.{TERM}": 0.5}


def recipe(**settings):
    return distill_recipe(method="kl", settings=SMALL | WEIGHT | settings)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "d.zarr"
    tiny_dataset(path, 10)
    return path


@pytest.fixture
def run(dataset, plugins, tmp_path):
    distill(dataset, tmp_path / "run", recipe())
    return tmp_path / "run"


def test_the_term_keeps_the_protocol_and_the_page_shows_its_file(plugins):
    check_term(TERMS.load(TERM), name=TERM)
    page = (ROOT / "docs" / "guide" / "extending.md").read_text("utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
    shown = dict(reversed(blocks))  # the first of every kind
    source = ROOT / "tests" / "plugins"
    assert shown["python"] == (source / "kd_offline_example_plugin" / f"{TERM}.py").read_text()
    assert shown["toml"] in (source / "pyproject.toml").read_text("utf-8")
    checked = next(code for kind, code in blocks if "check_term" in code)
    exec(compile(checked, "extending.md", "exec"), {})


def test_the_perturbation_keeps_the_protocol_and_the_page_shows_its_file(plugins):
    assert PERTURBATIONS.origin("late").package == "kd-offline-example-plugin"
    check_perturbation(PERTURBATIONS.load("late"))
    page = (ROOT / "docs" / "guide" / "extending.md").read_text("utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
    source = ROOT / "tests" / "plugins"
    assert ("python", (source / "kd_offline_example_plugin" / "late.py").read_text()) in blocks
    (stated,) = [
        code for kind, code in blocks if "kd_offline.perturbations" in code and kind == "toml"
    ]
    assert stated in (source / "pyproject.toml").read_text("utf-8")


def test_its_settings_are_checked_and_stated(plugins):
    assert recipe().terms[TERM] == {"warmup": 0.0, "limit": 3.0}
    assert TERM not in distill_recipe().weights
    assert recipe(**{f"terms.{TERM}.limit": 2}).terms[TERM]["limit"] == 2.0
    with pytest.raises(UsageError, match=rf"terms\.{TERM}: limit is -1, which should be greater"):
        recipe(**{f"terms.{TERM}.limit": -1})
    with pytest.raises(UnknownNameError, match="did you mean 'limit'"):
        recipe(**{f"terms.{TERM}.limits": 1})


def test_a_run_names_the_package_and_is_repeated_to_the_bit(run):
    (part,) = open_run(run).manifest().parts
    assert part.model_dump() == {
        "kind": "loss term",
        "name": TERM,
        "package": "kd-offline-example-plugin",
        "version": "0.1.0",
    }
    rows = [row for row in open_run(run).metrics() if row["split"] == "train"]
    assert [row[TERM] > 0 for row in rows] == [True, True]
    assert rerun(run).identical


def test_an_interrupted_run_goes_on_to_the_same_bits(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)

    def stop(step, values, series):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(dataset, tmp_path / "cut", recipe(), observers=[FunctionObserver(metrics=stop)])
    done = distill(dataset, tmp_path / "cut", recipe(), resume=True)
    assert done.results[0].digest == open_run(run).manifest().results[0].digest


def test_without_weight_it_changes_no_bit(dataset, plugins, tmp_path):
    plain = distill_recipe(method="kl", settings=SMALL)
    digests = [
        distill(dataset, tmp_path / name, chosen).results[0].digest
        for name, chosen in (("none", plain), ("zero", recipe(**{f"weights.{TERM}": 0.0})))
    ]
    assert digests[0] == digests[1]
    assert open_run(tmp_path / "zero").manifest().parts == ()


def test_gates_narrow_its_heads_too(dataset, plugins, tmp_path):
    gates = {"budget.max_macs": 200, "budget.allocate": "gates", "student.hidden": 8}
    done = distill(dataset, tmp_path / "run", recipe(**gates))
    assert done.results[0].layers is not None


def test_another_version_is_refused_in_one_sentence(run, other_version):
    other_version()
    words = (
        rf"the run in '.*run' was made with the loss term '{TERM}' of kd-offline-example-plugin "
        r"0\.1\.0, and kd-offline-example-plugin 0\.2\.0 is installed: install that version"
    )
    with pytest.raises(MismatchError, match=words):
        rerun(run)
    with pytest.raises(MismatchError, match=words):
        distill(open_run(run).manifest().dataset.path, run, recipe(), resume=True)


def test_what_is_not_installed_is_named_with_its_package(run, plugins, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(plugins)])
    words = rf"unknown loss term '{TERM}'.*from the package 'kd-offline-example-plugin 0\.1\.0'"
    with pytest.raises(UnknownNameError, match=words):
        rerun(run)
    with pytest.raises(UnknownNameError, match=words):
        distill_recipe(file=run / "run.json")
    with pytest.raises(UnknownNameError, match=f"unknown loss term '{TERM}': allowed are kl, ce"):
        recipe()


def test_a_run_that_states_nonsense_of_its_parts_is_refused(run, tmp_path):
    copy = tmp_path / "copy.json"
    document = json.loads((run / "run.json").read_text("utf-8"))
    for stated in (3, [3], [{"kind": "loss term"}]):
        copy.write_text(json.dumps(document | {"parts": stated}), "utf-8")
        with pytest.raises(UsageError, match="does not say which parts it needs"):
            distill_recipe(file=copy)


@pytest.mark.parametrize("call", ["arrays", "fit", "targets", "auxiliary_heads", "loss"])
def test_what_fails_in_it_names_the_package_and_the_call(
    dataset, plugins, tmp_path, monkeypatch, call
):
    def broken(self, *given):
        raise StopIteration("a fault")

    monkeypatch.setattr(TERMS.load(TERM), call, broken)
    words = (
        rf"the loss term '{TERM}' of kd-offline-example-plugin 0\.1\.0 failed in {call}: "
        "StopIteration: a fault; correct it"
    )
    with pytest.raises(UserCodeError, match=words):
        distill(dataset, tmp_path / "run", recipe())


def test_the_command_line_takes_it_as_ours(dataset, plugins, tmp_path):
    command = [sys.executable, "-m", "kd_offline", "distill", str(dataset), "-o", "run", "-q"]
    command += ["--method", "kl", "--hidden", "4", "--epochs", "1", "--set"]
    path = os.pathsep.join([str(plugins), os.environ.get("PYTHONPATH", "")])
    given = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": path}, "check": False}
    done = subprocess.run([*command, f"weights.{TERM}=0.5"], **given)
    assert done.returncode == 0
    assert open_run(tmp_path / "run").manifest().parts[0].name == TERM
