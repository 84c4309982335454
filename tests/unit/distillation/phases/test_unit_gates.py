"""Training with gates on units: its phases, what is left, and that it repeats its bits."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kd_offline.distillation import distill as module
from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.errors import BudgetError, UsageError
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.networks.packed import Remnant
from kd_offline.runs.folder import open_run
from kd_offline.schemas.run import RunManifest
from kd_offline.schemas.student import StudentCard
from kd_offline.students.policy import load
from kd_offline.testing.factories import environment_spec
from kd_offline.tracking.base import FunctionObserver

LIMIT = 900
SETTINGS: dict[str, Any] = {"optimisation.epochs": 4, "optimisation.batch_episodes": 16}
SETTINGS |= {"budget.max_macs": LIMIT, "budget.allocate": "gates"}
SETTINGS |= {"gates.settle_from": 0.5, "gates.ramp": 0.5, "gates.weight": 1.0}


def recipe(**changes):
    places = {name.replace("__", "."): value for name, value in changes.items()}
    return distill_recipe(mask="limited", hidden=12, seeds=2, settings=SETTINGS | places)


@pytest.fixture(scope="module")
def made(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("gated") / "run"
    manifest = distill(dataset, path, recipe())
    return open_run(path), manifest


def digests(manifest):
    return [result.digest for result in manifest.results]


@pytest.mark.parametrize(
    ("epochs", "share", "first"), [(10, 0.5, 5), (24, 0.25, 6), (2, 0.9, 1), (3, 0.01, 1)]
)
def test_units_are_chosen_between_two_epochs(epochs, share, first):
    chosen = recipe(optimisation__epochs=epochs, gates__settle_from=share)
    assert chosen.first_settled == first
    by_worth = recipe(optimisation__epochs=epochs, budget__allocate="worth")
    assert (by_worth.first_settled, distill_recipe().first_settled) == (None, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"student__rank_share": 0.5}, "student.rank_share"),
        ({"student__kind": "mlp", "student__depth": 0}, "student.depth 1 or more"),
        ({"optimisation__epochs": 1}, "epochs of 2 or more"),
        ({"optimisation__quantise_from": 0.1}, "no less than gates.settle_from"),
        ({"gates__settle_from": 1.0}, "gates.settle_from"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(settings, words):
    with pytest.raises(UsageError, match=words):
        recipe(**settings)


def test_gates_without_a_limit_are_refused():
    with pytest.raises(UsageError, match="needs a profile or a limit"):
        distill_recipe(settings={"budget.allocate": "gates"})


def test_every_team_fits_and_is_an_ordinary_one(made):
    folder, manifest = made
    teams = load(folder.path)
    assert len(teams) == 2
    for team, result in zip(teams, manifest.results, strict=True):
        assert result.layers is not None
        for i, (layers, shape) in enumerate(zip(result.layers, team.team.shapes, strict=True)):
            assert (layers.trunk, layers.gru) == (shape.trunk, shape.gru)
            hidden = 2 * (18 - sum(team.card.mask_features[i]))  # columns that an export drops
            assert shape.cost().macs - shape.trunk[0] * hidden <= LIMIT
        assert team.widths == tuple(layers.widest for layers in result.layers)
    assert teams[0].card.widths == (12, 12, 12)
    assert teams[0].card.format_version == (1, 3)
    figures = [agent.figures["macs"].value for agent in manifest.allocation.agents]
    assert max(figures) <= LIMIT
    assert manifest.allocation.team["macs"] == sum(figures)
    assert [agent.worth for agent in manifest.allocation.agents] == [None] * 3


def test_the_penalty_is_on_record_while_there_are_gates(made):
    folder, _ = made
    rows = [row for row in folder.metrics() if row["split"] == "train" and row["seed"] == 0]
    assert ["resources" in row for row in rows] == [True, True, False, False]
    used = [row["budget_used"] for row in rows[:2]]
    assert used[0] > 1
    assert used[1] < used[0]


def test_only_teams_without_gates_are_compared_and_kept(made):
    folder, manifest = made
    rows = [r for r in folder.metrics() if r["split"] == "heldout" and r["seed"] == 1]
    late = {row["epoch"]: row["kl"] for row in rows if row["epoch"] > 2}
    assert manifest.results[1].best_epoch == min(late, key=late.get)


def test_the_penalty_brings_the_cost_down(dataset, tmp_path):
    used = []
    for weight in (0.0, 10.0):
        chosen = recipe(gates__weight=weight, gates__ramp=0.0, gates__learning_rate=1.0, seeds=[0])
        distill(dataset, tmp_path / str(weight), chosen)
        rows = open_run(tmp_path / str(weight)).metrics()
        used.append([row["budget_used"] for row in rows if "budget_used" in row][-1])
    assert used[1] < 0.8 * used[0]


def test_the_number_of_threads_changes_no_bit(made, dataset, tmp_path):
    again = distill(dataset, tmp_path / "again", recipe(threads=1))
    assert digests(again) == digests(made[1])
    assert open_run(tmp_path / "again").metrics() == made[0].metrics()


@pytest.mark.parametrize(
    ("seed", "epoch"), [(0, 1), (0, 2), (0, 3), (1, 2)]
)  # with gates, as they are settled, without them, and in a team after the first
def test_an_interrupted_run_continues_to_the_same_bits(
    made, dataset, tmp_path, monkeypatch, seed, epoch
):
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)

    def stop(step, values, series):
        if (series, step) == (f"seed {seed}", epoch + 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(dataset, tmp_path / "run", recipe(), observers=[FunctionObserver(metrics=stop)])
    done = distill(dataset, tmp_path / "run", recipe(), resume=True)
    assert digests(done) == digests(made[1])
    assert (done.allocation, done.students) == (made[1].allocation, made[1].students)
    assert open_run(tmp_path / "run").metrics() == made[0].metrics()


def test_weights_can_be_rounded_once_units_are_chosen(dataset, tmp_path):
    chosen = recipe(optimisation__quantise_from=0.75, seeds=[0], student__kind="mlp")
    done = distill(dataset, tmp_path / "run", chosen)
    assert done.results[0].best_epoch == 4
    assert load(tmp_path / "run")[0].team.shapes[0].gru is None


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_heads_of_what_is_left_are_those_of_the_gated_embedding(kind):
    rng, spec = np.random.default_rng(0), environment_spec((4, 4))
    settings = {"weights.regression": 1.0, "student.dueling": True, "terms.role.roles": 3}
    settings |= {"terms.structure.relation": kind, "terms.structure.relation_width": 5}
    settings |= {"terms.role.learn_projection": False}
    terms = ActiveTerms.of(distill_recipe(settings=settings))
    whole = AuxiliaryHeads(terms.auxiliary_heads((6, 4), spec, rng))
    whole.require_narrowable(2)
    with torch.no_grad():
        for head in whole.by_term()["regression"].parameters():
            head.normal_(generator=torch.Generator().manual_seed(1))
    units = (torch.tensor([0, 3, 4]), torch.tensor([1]))
    left = [Remnant(u, torch.tensor([0.5, 1.0, 0.25])[: len(u)]) for u in units]
    small = whole.narrowed(left)
    own = [torch.from_numpy(rng.standard_normal((2, 3, len(u)))).float() for u in units]
    assert small.terms == whole.terms == ("structure", "role", "regression")
    for name, heads in small.by_term().items():
        for i, (values, (kept, gate)) in enumerate(zip(own, left, strict=True)):
            wide = torch.zeros(2, 3, (6, 4)[i])
            wide[..., kept] = values * gate
            torch.testing.assert_close(heads[i](values), whole.by_term()[name][i](wide))
    trained = [p.requires_grad for p in small.parameters()]
    assert trained == [p.requires_grad for p in whole.parameters()]
    assert not any(p.requires_grad for p in small.by_term()["role"].parameters())


def test_a_budget_for_nobody_is_refused_before_training(dataset, tmp_path):
    with pytest.raises(BudgetError, match="even 4 units wide"):
        distill(dataset, tmp_path / "run", recipe(budget__max_macs=10))
    assert not (tmp_path / "run").exists()


def test_costs_of_an_evaluation_are_those_of_the_largest_team(made):
    folder, manifest = made
    report = evaluate(folder.path, episodes=8, modes=("greedy",))
    assert report.cost.student.macs == manifest.allocation.team["macs"]
    shapes = [agent.trunk for agent in report.cost.student.agents]
    assert shapes in [[layers.trunk for layers in r.layers] for r in manifest.results]


def test_what_was_written_without_layers_is_still_read(made):
    manifest = json.loads(made[1].model_dump_json())
    manifest["version"] = [1, 0]
    for result in manifest["results"]:
        del result["layers"]
    for agent in manifest["allocation"]["agents"]:
        del agent["layers"]
    del manifest["recipe"]["gates"]
    assert RunManifest.model_validate_json(json.dumps(manifest)).results[0].layers is None
    card = json.loads(load(made[0].path)[0].card.model_dump_json())
    del card["layers"]
    card["format_version"] = [1, 0]
    old = StudentCard.model_validate_json(json.dumps(card))
    assert old.widths_of(1) == (12, 12, 12)


def test_gates_are_part_of_the_saved_state(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)
    kept = []

    def look(step, values, series):
        file = tmp_path / "run" / "resume" / "state-1.safetensors"
        if step == 2 and file.exists():
            kept.append(set(load_file(file)))

    distill(
        dataset, tmp_path / "run", recipe(seeds=[0]), observers=[FunctionObserver(metrics=look)]
    )
    assert {f"gates.log_alpha.{i}" for i in range(3)} < kept[0]
    assert any(name.startswith("optimiser2.") for name in kept[0])
