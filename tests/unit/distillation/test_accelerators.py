"""Training on another device: nothing of a step stays on the processor.

No GPU is at hand, so a step is taken on PyTorch's ``meta`` device, which knows shapes alone. Most
operations that mix its tensors with the processor's are errors, as on a GPU; products are not.
"""

import pytest
import torch

from kd_offline.distillation.distill import distill
from kd_offline.distillation.objective import objective, student_batch
from kd_offline.distillation.parallel_agents import parallel_agents
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.rerun import rerun
from kd_offline.distillation.run import prepare
from kd_offline.distillation.stacked_teams import StackedPass, clip_each
from kd_offline.distillation.train import Training
from kd_offline.errors import UsageError
from kd_offline.runs.folder import open_run

META = torch.device("meta")
SETTINGS = {"optimisation.epochs": 2, "optimisation.batch_episodes": 16, "student.hidden": 8}
CASES = [
    {},
    {"student.family": "mlp", "terms.policy.ratio": "joint"},
    {"student.rank_share": 0.5, "student.aligner": "linear"},
]


@pytest.fixture
def plain_optimisers(monkeypatch):
    """AdamW as several operations: in one it knows processors and GPUs alone."""
    adamw = torch.optim.AdamW

    def apart(parameters, rate, *, weight_decay, fused):
        assert fused
        return adamw(parameters, rate, weight_decay=weight_decay)

    monkeypatch.setattr(torch.optim, "AdamW", apart)


def prepared_on_meta(buffer, folder, settings, seeds=1):
    chosen = distill_recipe(mask="limited", seeds=seeds, settings=SETTINGS | settings)
    run = prepare(buffer, folder / "run", chosen, "", "", False, False)
    teams = [run.design.team(seed) for seed in chosen.seeds]
    heads = [run.design.heads(s, t, run.terms) for s, t in zip(chosen.seeds, teams, strict=True)]
    return run, [team.to(META) for team in teams], [own.to(META) for own in heads]


def step(run, state, passes, batch):
    """One step of the training loop."""
    logits, embeddings, _ = passes.forward(batch)
    students = student_batch(logits, embeddings, batch.targets, state.team.spec)
    losses = objective(students, batch.targets, state.heads, run.terms, 1.0)
    passes.backward(losses["loss"])
    for optimiser in state.optimisers:
        optimiser.step()
    return losses


def require_there(tensors):
    kept = list(tensors)
    assert kept
    assert {each.device for each in kept} == {META}


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.usefixtures("plain_optimisers")
def test_a_step_of_one_seed(buffer, tmp_path, settings):
    run, (team,), (heads,) = prepared_on_meta(buffer, tmp_path, settings)
    state = Training.begin(team, heads, run.recipe.optimisation)
    batch = next(iter(run.train.to(META).epoch(16, 0, 0)))
    with parallel_agents(team, 1) as passes:
        losses = step(run, state, passes, batch)
    require_there(losses.values())
    require_there(p.grad for p in (*team.parameters(), *heads.parameters()))
    require_there(state.average)
    assert state.device == META


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.usefixtures("plain_optimisers")
def test_a_step_of_several_seeds_at_once(buffer, tmp_path, settings):
    settings = settings | {"batched_seeds": True}
    run, teams, heads = prepared_on_meta(buffer, tmp_path, settings, seeds=2)
    state = Training.begin_together(teams, heads, run.terms)
    passes = StackedPass(state.team)
    batch = next(iter(passes.batches(run.train.to(META), 16, (0, 1), 0)))
    require_there(step(run, state, passes, batch).values())
    require_there(p.grad for p in (*state.team.parameters(), *state.heads.parameters()))
    require_there([clip_each(state.team, state.heads, 1.0)])


def test_streamed_batches_go_to_the_device(buffer, tmp_path):
    settings = {"memory_mb": 4.5, "optimisation.batch_episodes": 8}
    run, *_ = prepared_on_meta(buffer, tmp_path, settings)
    for batch in (next(iter(run.train.to(META).epoch(8, 0, 0))), next(run.train.to(META).parts(8))):
        require_there(batch.targets.tensors().values())


def test_a_device_that_is_not_there_is_refused_before_any_work(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'cuda' is not there"):
        distill(dataset, tmp_path / "run", distill_recipe(settings={"accelerator": "cuda"}))
    assert not (tmp_path / "run").exists()


def test_int8_weights_need_double_precision(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    chosen = distill_recipe(qat=True, settings={"accelerator": "mps"})
    with pytest.raises(UsageError, match="double precision, which the accelerator 'mps' lacks"):
        distill(dataset, tmp_path / "run", chosen)


def test_what_auto_came_to_is_recorded_and_a_repetition_is_the_same(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    chosen = distill_recipe(method="kl", settings=SETTINGS | {"accelerator": "auto"})
    distill(dataset, tmp_path / "run", chosen)
    manifest = open_run(tmp_path / "run").manifest()
    assert manifest.recipe["accelerator"] == "auto"
    assert manifest.provenance.device == "cpu"
    assert rerun(tmp_path / "run", tmp_path / "again").identical
