"""A student family of another package, installed by pip: distilling, playing, refusals."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd_offline import distill, distill_recipe, evaluate, export, rerun
from kd_offline.distillation import distill as module
from kd_offline.errors import (
    CheckpointError,
    MismatchError,
    UnknownNameError,
    UsageError,
    UserCodeError,
)
from kd_offline.exports.engines import read_manifest
from kd_offline.networks.files import read_tensors, write_tensors
from kd_offline.reports.markdown import markdown
from kd_offline.runs.folder import open_run, read_evaluation
from kd_offline.students.families import FAMILIES, family_of
from kd_offline.students.file import read_students
from kd_offline.students.policy import load
from kd_offline.testing.factories import tiny_dataset
from kd_offline.testing.students import check_family
from kd_offline.tracking.base import FunctionObserver
from tests.end_to_end.conftest import SPREAD, kd, refused

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[2]
FAMILY = "min_gru"
SMALL = {"optimisation.epochs": 2, "optimisation.batch_episodes": 4, "student.hidden": 6}


def recipe(**settings):
    return distill_recipe(method="kl", settings=SMALL | {"student.family": FAMILY} | settings)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "d.zarr"
    tiny_dataset(path, 10)
    return path


@pytest.fixture
def run(dataset, plugins, tmp_path):
    distill(dataset, tmp_path / "run", recipe())
    return tmp_path / "run"


def test_it_keeps_the_protocol_and_the_page_shows_its_file(plugins):
    check_family(FAMILY, {"state_share": 0.5})
    page = (ROOT / "docs" / "guide" / "extending.md").read_text("utf-8")
    source = ROOT / "tests" / "plugins"
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
    code = [text for kind, text in blocks if kind == "python"]
    assert (source / "kd_offline_example_plugin" / f"{FAMILY}.py").read_text("utf-8") in code
    entry = next(text for kind, text in blocks if kind == "toml" and "kd_offline.students" in text)
    assert entry in (source / "pyproject.toml").read_text("utf-8")
    exec(compile(next(x for x in code if "check_family" in x), "extending.md", "exec"), {})


def test_its_settings_are_checked_and_stated(plugins):
    assert recipe().student.model_dump()["state_share"] == 1.0
    assert recipe(**{"student.state_share": 2}).student.model_dump()["state_share"] == 2.0
    with pytest.raises(UsageError, match=r"student: state_share is -1, which should be greater"):
        recipe(**{"student.state_share": -1})
    with pytest.raises(UnknownNameError, match="did you mean 'state_share'"):
        recipe(**{"student.state_shares": 1})
    words = r"student\.depth means nothing to min_gru, it is a setting of gru and mlp and "
    words += r"fusion and ptde: leave it out"
    with pytest.raises(UsageError, match=words):
        recipe(**{"student.depth": 1})


def test_runs_and_cards_name_the_package_and_are_repeated_to_the_bit(run):
    (part,) = open_run(run).manifest().parts
    assert part.model_dump() == {
        "kind": "student family",
        "name": FAMILY,
        "package": "kd-offline-example-plugin",
        "version": "0.1.0",
    }
    assert read_students(run).card.parts == (part,)
    assert rerun(run).identical


def test_killed_and_resumed_it_comes_to_the_same_bits(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)

    def stop(step, values, series):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(dataset, tmp_path / "cut", recipe(), observers=[FunctionObserver(metrics=stop)])
    done = distill(dataset, tmp_path / "cut", recipe(), resume=True)
    assert done.results[0].digest == open_run(run).manifest().results[0].digest


def test_all_seeds_are_trained_at_once(dataset, plugins, tmp_path):
    settings = SMALL | {"student.family": FAMILY}
    apart, together = (
        distill(
            dataset,
            tmp_path / str(batched),
            distill_recipe(
                method="kl", seeds=(3, 0), settings=settings | {"batched_seeds": batched}
            ),
        )
        for batched in (False, True)
    )
    for one, other in zip(apart.results, together.results, strict=True):
        assert one.held_out == pytest.approx(other.held_out, rel=1e-3, abs=1e-5)
    assert rerun(tmp_path / "True").identical


def test_without_a_stacked_form_seeds_are_trained_apart(dataset, plugins, tmp_path, monkeypatch):
    network = sys.modules[type(FAMILIES.load(FAMILY)).__module__].MinGRUNetwork
    monkeypatch.delattr(network, "stacked")
    words = (
        rf"networks of the student family '{FAMILY}' of kd-offline-example-plugin 0\.1\.0 cannot "
        "be trained with all seeds at once: set batched_seeds to false, or choose the student gru "
        "or mlp or fusion or ptde"
    )
    with pytest.raises(UsageError, match=words):
        distill(dataset, tmp_path / "run", recipe(batched_seeds=True))
    assert not (tmp_path / "run").exists()


def test_a_budget_of_arithmetic_narrows_it(dataset, plugins, tmp_path):
    done = distill(dataset, tmp_path / "run", recipe(**{"budget.max_macs": 100}))
    (figures,) = {tuple(agent.figures) for agent in done.allocation.agents}
    assert figures == ("macs",)
    assert max(agent.figures["macs"].value for agent in done.allocation.agents) <= 100
    assert min(agent.hidden for agent in done.allocation.agents) < 6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget.max_macs": 200, "budget.allocate": "gates"}, "have no unit gates: its units"),
        ({"optimisation.quantise_from": 0.5}, "have no int8 weights: no rounding"),
        ({"budget.max_macs": 200, "budget.precision": "int8"}, "have no int8 weights"),
    ],
)
def test_what_it_declines_is_one_sentence(plugins, settings, words):
    whose = rf"students of the family '{FAMILY}' of kd-offline-example-plugin 0\.1\.0 "
    with pytest.raises(UsageError, match=whose + words):
        recipe(**settings)


def test_nothing_is_predicted_of_c_that_it_does_not_have(run):
    words = f"predicted of exported C, and students of the family '{FAMILY}' have none: name no"
    with pytest.raises(UsageError, match=words):
        evaluate(run, episodes=4, profiles=["stm32f4"])
    with pytest.raises(UsageError, match=words):
        markdown(run, profiles=["stm32f4"])


@pytest.mark.parametrize("limit", ["budget.max_flash_kb", "budget.max_ram_kb"])
def test_budgets_of_exported_c_are_refused(dataset, plugins, tmp_path, limit):
    words = f"is one of exported C, and students of the family '{FAMILY}' have none"
    with pytest.raises(UsageError, match=words):
        distill(dataset, tmp_path / "run", recipe(**{limit: 3.0}))


def test_the_command_line_distils_evaluates_counts_and_declines_exports(plugins, tmp_path):
    data, run = tmp_path / "d.zarr", tmp_path / "run"
    kd("record", SPREAD, "--episodes", "30", "--threads", "1", "-o", data)
    kd(
        *("distill", data, "-o", run, "--method", "kl", "--mask", "limited", "--epochs", "2"),
        *("--hidden", "8", "--set", f"student.family={FAMILY}", "--set", "student.state_share=2"),
    )
    kd("evaluate", run, "--episodes", 20, "--threads", 1)
    student = read_evaluation(run).cost.student.agents[0]
    features = sum(load(run)[0].mask.static[0])
    inputs = 2 * features + 5  # with their changes and the last action
    assert student.layers == ("linear 8", "minGRU 16")
    assert student.macs == 8 * (inputs + 32) + 16 * 5
    assert "minGRU 16" in kd("report", run, "--markdown").output
    for to, what, why in (
        ("c", "C export", "its recurrence is not written in C"),
        ("torch", "PyTorch export", "the reader of that format does not know it"),
    ):
        words = refused("export", run, "--to", to, code=2)
        whose = f"students of the family '{FAMILY}' of kd-offline-example-plugin 0.1.0"
        assert f"{whose} have no {what}: {why}, so export to onnx" in words
    assert "have no int8 weights" in refused("export", run, "--precision", "int8", code=2)
    assert not (run / "export").exists()
    kd("export", run, "--to", "all")
    written = read_manifest(run / "export")
    assert written.formats == ("onnx",)
    assert written.agents[0].macs == student.macs
    assert list(written.agents[0].memory) == ["min_gru", "previous", "started", "last_action"]
    played = kd("evaluate", run, "--export", run / "export", "--episodes", 20, "--threads", 1)
    assert "onnx" in played.output


def test_help_lists_it(plugins):
    path = os.pathsep.join([str(plugins), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "kd_offline", "distill", "--help"]
    environ = os.environ | {"PYTHONPATH": path, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    assert f"Student family: gru, mlp, fusion, ptde, {FAMILY}" in " ".join(done.stdout.split())


def test_a_sweep_of_it_is_refused(dataset, plugins, tmp_path):
    words = refused("sweep", dataset, "-o", tmp_path / "s", "--arch", f"gru,{FAMILY}", code=2)
    assert "have no C export" in words


def absent(plugins, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(plugins)])


COMMANDS = ("rerun", "evaluate", "export", "profile", "report")


def test_another_version_is_refused_in_one_sentence(run, dataset, other_version):
    other_version()
    words = (
        rf"was made with the student family '{FAMILY}' of kd-offline-example-plugin 0\.1\.0, and "
        r"kd-offline-example-plugin 0\.2\.0 is installed: install that version"
    )
    with pytest.raises(MismatchError, match=words):
        distill(dataset, run, recipe(), resume=True)
    for command in COMMANDS:
        assert re.search(words, refused(command, run, code=2)), command


def test_where_it_is_not_installed_its_package_is_named(run, plugins, monkeypatch):
    absent(plugins, monkeypatch)
    words = rf"unknown student family '{FAMILY}'.*'kd-offline-example-plugin 0\.1\.0': install that"
    for command in COMMANDS:
        assert re.search(words, refused(command, run, code=2)), command
    with pytest.raises(UnknownNameError, match=words):
        distill_recipe(file=run / "run.json")
    with pytest.raises(UnknownNameError, match=f"unknown student family '{FAMILY}': allowed are"):
        recipe()


@pytest.mark.parametrize("call", ["declines", "shape", "network"])
def test_what_fails_in_it_names_the_package_and_the_call(
    dataset, plugins, tmp_path, monkeypatch, call
):
    def broken(self, *given):
        raise StopIteration("a fault")

    monkeypatch.setattr(type(FAMILIES.load(FAMILY)), call, broken)
    words = (
        rf"the student family '{FAMILY}' of kd-offline-example-plugin 0\.1\.0 failed in {call}: "
        "StopIteration: a fault; correct it"
    )

    def distil_and_export():
        distill(dataset, tmp_path / "run", recipe())
        export(tmp_path / "run")

    with pytest.raises(UserCodeError, match=words):
        distil_and_export()


@pytest.mark.parametrize("call", ["packed", "start", "stacked"])
def test_so_does_what_fails_in_its_networks(dataset, plugins, tmp_path, monkeypatch, call):
    def broken(self, *given):
        raise StopIteration("a fault")

    network = sys.modules[type(FAMILIES.load(FAMILY)).__module__].MinGRUNetwork
    monkeypatch.setattr(network, call, broken)
    with pytest.raises(UserCodeError, match=f"of kd-offline-example-plugin 0.1.0 failed in {call}"):
        distill(dataset, tmp_path / "run", recipe(batched_seeds=call == "stacked"))


@pytest.mark.parametrize(("call", "words"), [("cell", "folded or cell"), ("onnx", "the onnx ex")])
def test_so_does_what_fails_in_its_exports(dataset, plugins, tmp_path, monkeypatch, call, words):
    distill(dataset, tmp_path / "run", recipe())

    def broken(self, *given):
        raise StopIteration("a fault")

    of = sys.modules[type(FAMILIES.load(FAMILY)).__module__]
    monkeypatch.setattr(of.MinGRUNetwork if call == "cell" else of.MinGRUCell, call, broken)
    with pytest.raises(
        UserCodeError, match=f"of kd-offline-example-plugin 0.1.0 failed in {words}"
    ):
        export(tmp_path / "run")
    assert not (tmp_path / "run" / "export").exists()


def test_what_it_refuses_on_purpose_is_its_own_sentence(dataset, plugins, tmp_path, monkeypatch):
    def refusing(self, *given):
        msg = "widths have to be even: give one"
        raise UsageError(msg)

    monkeypatch.setattr(type(FAMILIES.load(FAMILY)), "shape", refusing)
    with pytest.raises(UsageError, match=r"^widths have to be even: give one$"):
        distill(dataset, tmp_path / "run", recipe())


def test_what_is_no_family_is_refused(plugins, monkeypatch):
    module_of = sys.modules[type(FAMILIES.load(FAMILY)).__module__]
    monkeypatch.setattr(module_of, "FAMILY", "no family")
    with pytest.raises(UserCodeError, match=r"cannot be used: it is no kd_offline\.students"):
        recipe()


def test_a_card_with_settings_that_the_family_has_not_is_damaged(run, tmp_path):
    file = read_tensors(run / "students.safetensors", "")
    altered = file.metadata | {"card": file.metadata["card"].replace("state_share", "other_share")}
    write_tensors(tmp_path / "students.safetensors", file.tensors(), altered)
    with pytest.raises(CheckpointError, match=r"is damaged: .*'other_share'.*distil them again"):
        load(tmp_path)
    assert family_of(load(run)[0].card.architecture) is FAMILIES.load(FAMILY)
