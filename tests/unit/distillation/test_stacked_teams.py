"""Seeds that are computed at once: each comes to what it comes to alone, up to rounding."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation import distill as module
from kd_offline.distillation.distill import distill
from kd_offline.distillation.objective import objective, student_batch
from kd_offline.distillation.parallel_agents import parallel_agents
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.rerun import rerun
from kd_offline.distillation.run import prepare
from kd_offline.distillation.stacked_teams import StackedPass, clip_each
from kd_offline.distillation.terms.role import Role
from kd_offline.distillation.terms.tap import TapTerm
from kd_offline.distillation.train import Training
from kd_offline.errors import UsageError
from kd_offline.networks.fusion import FusionNetwork
from kd_offline.networks.fusion_shape import FusionShape
from kd_offline.networks.predicting import PredictingNetwork
from kd_offline.networks.predicting_shape import PredictingShape
from kd_offline.networks.stacked import stacked_module
from kd_offline.runs.folder import open_run
from kd_offline.students.policy import load
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from kd_offline.tracking.base import FunctionObserver

SEEDS = (3, 0, 4)
SETTINGS = {"optimisation.epochs": 3, "optimisation.batch_episodes": 16, "student.hidden": 8}


def recipe(*, batched, method="kd-marl", mask="limited", seeds=SEEDS, **settings):
    places = {name.replace("__", "."): value for name, value in settings.items()}
    given = SETTINGS | {"batched_seeds": batched} | places
    return distill_recipe(method=method, mask=mask, seeds=seeds, settings=given)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """Episodes of 1 to 25 steps, agents of two shapes, and an expert that has Q-values too."""
    spec = environment_spec((6, 4, 6), (5, 4, 5))
    path = tmp_path_factory.mktemp("ragged") / "d.zarr"
    lengths = [1 + 7 * i % 25 for i in range(40)]
    block = episode_block(spec, lengths)
    q = np.random.default_rng(0).normal(0, 1, (sum(lengths), 3, 5)).astype(np.float32)
    block = replace(block, steps={**block.steps, "q_values": q})
    with DatasetWriter.create(path, header(spec)) as writer:
        writer.append(block)
        writer.commit({"full": full_mask(spec)})
    return ExpertBuffer.open(path)


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """Episodes of different lengths of an expert whose inner layers are recorded."""
    spec = environment_spec((6, 4, 6), (5, 4, 5))
    path = tmp_path_factory.mktemp("layered") / "d.zarr"
    lengths, rng = [1 + 7 * i % 25 for i in range(40)], np.random.default_rng(0)
    block = episode_block(spec, lengths)
    widths = {"s_hat": 8, "feature": 6, "z": 5}
    taps = {
        f"embedding_{name}": rng.normal(0, 1, (sum(lengths), 3, width)).astype(np.float32)
        for name, width in widths.items()
    }
    q = rng.normal(0, 1, (sum(lengths), 3, 5)).astype(np.float32)
    block = replace(block, steps={**block.steps, "q_values": q, **taps})
    with DatasetWriter.create(path, header(spec)) as writer:
        writer.append(block)
        writer.commit({"full": full_mask(spec)})
    return ExpertBuffer.open(path)


@pytest.fixture(scope="module")
def made(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("together") / "run"
    return path, distill(dataset, path, recipe(batched=True))


def gradients_of(found, k, seeds):
    """The first step's gradients by name, of seed number ``k`` of a stack, or of a team alone."""
    if seeds == 1:
        return {f"{i}.{n}": p.grad for i, net in enumerate(found.networks) for n, p in net_of(net)}
    named = {}
    for group, stack in zip(found.agents, found.stacks, strict=True):
        for place, i in enumerate(group):
            for name, _ in net_of(found.teams[0].networks[i]):
                own = stack.networks.get_parameter(name)
                named[f"{i}.{name}"] = own.grad[place * seeds + k]
    return named


def net_of(network):
    return list(network.named_parameters())


def first_losses(run, state, passes, seeds):
    """Go one step forth and back; return the losses."""
    batch = next(iter(passes.batches(run.train, 16, seeds, 0)))
    found = passes.forward(batch)
    own = (batch.targets, state.team.spec, found.taps)
    students = student_batch(found.logits, found.embeddings, *own)
    losses = objective(students, batch.targets, state.heads, run.terms, 1.0)
    passes.backward(losses["loss"])
    return {name: value.detach() for name, value in losses.items()}


def require_same_step(source, folder, **settings):
    chosen = recipe(batched=True, **settings)
    buffer = source if isinstance(source, ExpertBuffer) else ExpertBuffer.open(source)
    run = prepare(buffer, folder / "run", chosen, "", "", False, False)
    teams = [run.design.team(seed) for seed in SEEDS]
    heads = [run.design.heads(s, t, run.terms) for s, t in zip(SEEDS, teams, strict=True)]
    stacked = Training.begin_together(teams, heads, run.terms)
    together = first_losses(run, stacked, StackedPass(stacked.team), SEEDS)
    norms = clip_each(stacked.team, stacked.heads, 0.01)
    for k, seed in enumerate(SEEDS):
        team = run.design.team(seed)
        state = Training.begin(team, run.design.heads(seed, team, run.terms), chosen.optimisation)
        with parallel_agents(team, 1) as passes:
            apart = first_losses(run, state, passes, (seed,))
        for name, value in apart.items():
            torch.testing.assert_close(together[name][k], value, rtol=1e-5, atol=1e-7)
        norm = torch.nn.utils.clip_grad_norm_(state.parameters, 0.01)
        torch.testing.assert_close(norms[k], norm, rtol=1e-5, atol=1e-7)
        mine = gradients_of(stacked.team, k, len(SEEDS))
        alone = gradients_of(team, 0, 1)
        largest = max(float(theirs.abs().max()) for theirs in alone.values())
        for name, theirs in alone.items():
            near = 1e-4 * float(theirs.abs().max()) + 1e-5 * largest
            torch.testing.assert_close(mine[name], theirs, rtol=1e-4, atol=near)


def require_same(source, folder, **settings):
    apart = distill(source, folder / "apart", recipe(batched=False, **settings))
    together = distill(source, folder / "together", recipe(batched=True, **settings))
    for one, other in zip(apart.results, together.results, strict=True):
        assert (one.seed, one.updates) == (other.seed, other.updates)
        assert one.held_out == pytest.approx(other.held_out, rel=1e-3, abs=1e-5)
    for mine, theirs in zip(load(folder / "together"), load(folder / "apart"), strict=True):
        pairs = zip(mine.team.parameters(), theirs.team.parameters(), strict=True)
        gaps = torch.cat([(a - b).abs().flatten() for a, b in pairs])
        # Where a gradient is nearly zero, AdamW and Muon make whole steps of its rounding.
        assert gaps.median() < 1e-5
        assert gaps.max() < 1e-2
    return open_run(folder / "apart").metrics(), open_run(folder / "together").metrics()


def test_every_seed_comes_to_what_it_comes_to_alone(dataset, tmp_path):
    apart, together = require_same(dataset, tmp_path)
    by_place = {(row["seed"], row["epoch"], row["split"]): row for row in together}
    assert len(by_place) == len(apart)
    for row in apart:
        other = by_place[row["seed"], row["epoch"], row["split"]]
        figures = {name: value for name, value in row.items() if name != "split"}
        assert {n: other[n] for n in figures} == pytest.approx(figures, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"student__hidden": (8, 6, 8)},
        {"student__family": "mlp"},
        {"student__depth": 0},
        {"student__rank_share": 0.5},
        {"student__aligner": "linear"},
        {"terms__structure__relation": "mlp", "terms__role__learn_projection": False},
        {"method": "kl", "mask": "full"},
        {"objective__agents": "sum", "terms__policy__ratio": "joint"},
        {"method": "tseng"},
        {"method": "relation-attention"},
        {"method": "hidden-features", "student__hidden": (8, 6, 8)},
        {"method": "neighbours"},
        {"method": "logits"},
    ],
    ids=str,
)
def test_a_step_of_every_setting(dataset, tmp_path, settings):
    require_same_step(dataset, tmp_path, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"weights__policy": 0.0},
        {"method": "bc"},
        {"method": "q", "student__dueling": True},
    ],
    ids=str,
)
def test_episodes_of_different_lengths_and_agents_of_different_shapes(ragged, tmp_path, settings):
    require_same_step(ragged, tmp_path, mask="full", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "ddn-external"},
        {"method": "ddn-external", "student__depth": 0, "student__aligner": "linear"},
        {"method": "ddn-external", "student__hidden": (8, 6, 8)},
        {"method": "ptde", "student__z_width": 5},
        {"method": "ptde", "student__z_width": 3, "student__depth": 0},
    ],
    ids=str,
)
def test_students_of_privileged_teachers_take_the_same_step(layered, tmp_path, settings):
    """Inner layers of the recorded width are compared as they are, others by a linear map."""
    require_same_step(layered, tmp_path, mask="full", **settings)


NETWORKS = {
    "fusion": lambda rng: FusionNetwork(
        FusionShape(6, 6, 4, 5, (6, 6), 6, outputs=4, own=True), rng, head_gain=1.0
    ),
    "ptde": lambda rng: PredictingNetwork(
        PredictingShape(6, (6, 6), 6, 6, 3, outputs=4), rng, head_gain=1.0
    ),
}


@pytest.mark.parametrize("family", NETWORKS)
def test_stacked_networks_are_exact_but_for_rounding(family):
    """In double precision outputs, inner layers and gradients are those of each network."""
    rng, (t, b) = np.random.default_rng(0), (5, 3)

    def networks():
        made = [NETWORKS[family](np.random.default_rng(seed)).double() for seed in (0, 1)]
        for parameter in (p for network in made for p in network.parameters() if p.ndim == 1):
            parameter.data += torch.linspace(-0.3, 0.5, len(parameter))
        return made

    stack = stacked_module(networks())
    x = torch.from_numpy(rng.normal(0, 1, (t, 2, 6, b)))
    parts = layers(*stack.stacked(x))
    weights = {name: torch.from_numpy(rng.normal(0, 1, part.shape)) for name, part in parts.items()}
    sum((weights[name] * part).sum() for name, part in parts.items()).backward()
    for k, network in enumerate(networks()):
        rows = x[:, k].mT.flatten(0, 1)
        said = network.packed(rows, [b] * t, network.start(b)[0])
        alone = layers(said.outputs, said.embedding, said.taps)
        for name, part in alone.items():
            torch.testing.assert_close(parts[name][:, k].mT.flatten(0, 1), part)
        own = {name: weight[:, k].mT.flatten(0, 1) for name, weight in weights.items()}
        sum((own[name] * part).sum() for name, part in alone.items()).backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(stack.get_parameter(name).grad[k], parameter.grad)


def layers(logits, embedding, taps):
    return {"logits": logits, "embedding": embedding, **taps}


@pytest.mark.parametrize("method", ["ddn-external", "ptde"])
def test_students_of_privileged_teachers_come_to_what_they_come_to_alone(layered, tmp_path, method):
    require_same(layered, tmp_path, method=method, mask="full")


def test_terms_on_inner_layers_that_know_one_seed_only(layered, tmp_path, monkeypatch):
    monkeypatch.setattr(TapTerm, "any_axes", False)
    require_same_step(layered, tmp_path, method="ddn-external", mask="full")


def test_adamw_alone(dataset, tmp_path):
    require_same(
        dataset,
        tmp_path,
        method="kl",
        optimisation__optimiser="adamw",
        optimisation__weight_decay=0.01,
        optimisation__evaluate_every=2,
    )


def test_terms_that_know_one_seed_only_are_computed_seed_by_seed(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Role, "any_axes", False)
    shapes = set()
    loss = Role.loss

    def look(self, students, targets, heads):
        shapes.add(tuple(students.policy.parameters.shape))
        return loss(self, students, targets, heads)

    monkeypatch.setattr(Role, "loss", look)
    require_same_step(dataset, tmp_path)
    assert shapes == {(25 * 16, 3, 5)}


def test_other_heads_than_linear_ones_stay_apart(dataset, tmp_path, monkeypatch):
    heads = Role.auxiliary_heads

    def rounded(self, widths, spec, rng):
        made = heads(self, widths, spec, rng).children()
        return torch.nn.ModuleList(torch.nn.Sequential(h, torch.nn.Tanh()) for h in made)

    monkeypatch.setattr(Role, "auxiliary_heads", rounded)
    require_same_step(dataset, tmp_path)


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_run_continues_to_the_same_bits(made, dataset, tmp_path, monkeypatch, epoch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)

    def stop(step, values, series):
        if (series, step) == ("seed 0", epoch + 1):
            raise KeyboardInterrupt

    chosen, observers = recipe(batched=True), [FunctionObserver(metrics=stop)]
    with pytest.raises(KeyboardInterrupt):
        distill(dataset, tmp_path / "run", chosen, observers=observers)
    assert not open_run(tmp_path / "run").manifest().results
    done = distill(dataset, tmp_path / "run", recipe(batched=True), resume=True)
    before = made[1].results
    assert [r.digest for r in done.results] == [r.digest for r in before]
    assert [r.best_epoch for r in done.results] == [r.best_epoch for r in before]
    assert open_run(tmp_path / "run").metrics() == open_run(made[0]).metrics()


def test_a_repetition_is_bit_for_bit_the_same(made, tmp_path):
    assert open_run(made[0]).manifest().recipe["batched_seeds"] is True
    assert rerun(made[0], tmp_path / "again").identical


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget.max_macs": 900, "budget.allocate": "gates"}, "unit gates are trained seed by"),
        ({"optimisation.quantise_from": 0.5}, "int8 weights are trained seed by seed"),
    ],
)
def test_phases_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        distill_recipe(settings=settings | {"batched_seeds": True})


def test_data_that_do_not_fit_are_refused_before_training(ragged, tmp_path):
    chosen = recipe(batched=True, method="bc", mask="full", memory_mb=0.12)
    with pytest.raises(UsageError, match="need the data in memory"):
        distill(ragged, tmp_path / "run", chosen)
    assert not (tmp_path / "run").exists()
