"""Training that is aware of int8: its phase, what it keeps, and that it repeats its bits."""

import pytest

from kd_offline.distillation import distill as module
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.validation_metrics import validate
from kd_offline.errors import UsageError
from kd_offline.runs.folder import open_run
from kd_offline.schemas.recipes import Optimisation
from kd_offline.students.folding import RoundedPass
from kd_offline.students.policy import load
from kd_offline.tracking.base import FunctionObserver
from tests.unit.distillation.preparing import prepared

SETTINGS = {"optimisation.epochs": 4, "optimisation.batch_episodes": 16}


def recipe(**changes):
    given = {"optimisation.quantise_from": 0.5} | changes
    return distill_recipe(method="kl", mask="limited", hidden=8, settings=SETTINGS | given)


@pytest.fixture(scope="module")
def made(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("rounded") / "run"
    manifest = distill(dataset, path, recipe())
    return open_run(path), manifest


@pytest.mark.parametrize(
    ("epochs", "share", "first"),
    [(10, 0.8, 8), (10, 0.0, 0), (1, 0.8, 0), (3, 0.5, 2), (5, 0.99, 4), (7, None, None)],
)
def test_the_phase_begins_at_its_share_and_is_never_empty(epochs, share, first):
    assert Optimisation(epochs=epochs, quantise_from=share).first_rounded == first


def test_the_flag_is_a_setting_of_the_recipe():
    assert distill_recipe().optimisation.quantise_from is None
    assert distill_recipe(qat=True).optimisation.quantise_from == 0.8
    chosen = distill_recipe(qat=True, settings={"optimisation.quantise_from": 0.3})
    assert chosen.optimisation.quantise_from == 0.3
    with pytest.raises(UsageError, match="quantise_from"):
        distill_recipe(settings={"optimisation.quantise_from": 1.0})


def test_only_rounded_weights_are_compared_and_kept(made, buffer):
    folder, manifest = made
    result = manifest.results[0]
    rows = [row for row in folder.metrics() if row["split"] == "heldout"]
    late = {row["epoch"]: row["kl"] for row in rows if row["epoch"] > 2}
    assert result.best_epoch == min(late, key=late.get)
    assert result.held_out["kl"] == min(late.values())
    student = load(folder.path)[0]
    found = prepared(buffer, recipe(), team=student.team)
    held = found.targets_of(buffer.split("heldout"))
    plain = validate(student.team, held, 16, found.terms).figures
    student.team.stand_in = RoundedPass(student.mask.static)
    as_int8 = validate(student.team, held, 16, found.terms).figures
    assert as_int8["kl"] == pytest.approx(result.held_out["kl"], rel=1e-6)
    assert plain["kl"] != pytest.approx(result.held_out["kl"], rel=1e-6)


def test_before_the_phase_nothing_differs(made, dataset, tmp_path):
    distill(dataset, tmp_path / "plain", recipe(**{"optimisation.quantise_from": None}))
    plain, aware = (
        [row for row in open_run(path).metrics() if row["epoch"] <= 2]
        for path in (tmp_path / "plain", made[0].path)
    )
    assert plain == aware


def test_the_number_of_threads_changes_no_bit(made, dataset, tmp_path):
    again = distill(dataset, tmp_path / "again", recipe(threads=1))
    assert again.results[0].digest == made[1].results[0].digest


@pytest.mark.parametrize("epoch", [2, 3])  # as the phase begins, and within it
def test_an_interrupted_run_continues_to_the_same_bits(made, dataset, tmp_path, monkeypatch, epoch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)

    def stop(step, values, series):
        if step == epoch + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(dataset, tmp_path / "run", recipe(), observers=[FunctionObserver(metrics=stop)])
    done = distill(dataset, tmp_path / "run", recipe(), resume=True).results[0]
    before = made[1].results[0]
    assert (done.digest, done.best_epoch) == (before.digest, before.best_epoch)
    assert open_run(tmp_path / "run").metrics() == made[0].metrics()
