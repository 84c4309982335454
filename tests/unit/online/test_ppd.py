"""Students that go on by proximal policy distillation, and the run that comes of it."""

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.rerun import rerun
from kd_offline.errors import CheckpointError, StorageError, UsageError
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.experts import checkpoint
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.train import train
from kd_offline.exports.export import export
from kd_offline.online.ppd import ppd
from kd_offline.online.task import Allowed
from kd_offline.recording.record import record
from kd_offline.reports.html import report
from kd_offline.runs.complete import complete_run
from kd_offline.runs.folder import digests, open_run
from kd_offline.tracking.base import FunctionObserver

SPREAD = "mpe/simple_spread_v3"
QUICK = {"optimisation.epochs": 1, "threads": 1}
FRAMES = 3 * 8 * 25
SETTINGS = {
    "episodes_per_batch": 8,
    "minibatches": 2,
    "epochs": 1,
    "start.critic_frames": 0,
    "architecture.critic_trunk": (8,),
    "architecture.critic_gru": 8,
}


def distilled(folder, name, **student):
    settings = QUICK | {f"student.{key}": value for key, value in student.items()}
    recipe = distill_recipe(method="kl", mask="limited", hidden=8, seeds=2, settings=settings)
    distill(folder / "data.zarr", folder / name, recipe)
    return folder / name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset and a run."""
    folder = tmp_path_factory.mktemp("ppd")
    record(SPREAD, folder / "data.zarr", episodes=16, threads=1, partner=None)
    distilled(folder, "run")
    return folder


@pytest.fixture(scope="module")
def further(place):
    output = place / "further"
    return output, ppd(place / "run", output, frames=FRAMES, settings=SETTINGS, threads=1)


def test_what_comes_out_is_an_ordinary_run(place, further):
    output, manifest = further
    assert manifest.status == "complete"
    before, after = digests(open_run(place / "run").manifest()), digests(manifest)
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    assert [result.updates for result in manifest.results] == [3, 3]
    assert evaluate(output, episodes=10, modes=["greedy"]).greedy is not None
    assert export(output, to="torch").gate.part == "heldout"
    page = report(output).read_text()
    assert "by proximal policy distillation, 600 joint steps a seed" in page
    assert "no figure of held-out episodes is theirs" in page
    further_still = distill_recipe(start=output, settings=QUICK)
    distill(place / "data.zarr", place / "still", further_still)


def test_updates_count_batches_also_where_episodes_end_early(tmp_path):
    board = {"size": 2, "n_predators": 2, "n_prey": 1, "view": 3, "episode_limit": 60}
    settings = {name: value for name, value in SETTINGS.items() if not name.startswith("start.")}
    settings |= {"environment_kwargs": board, "frames": 1, "architecture.trunk": (8,)}
    recipe = train_recipe("grid/predator_prey", settings=settings)
    train(recipe, tmp_path / "expert", threads=1, score_episodes=0)
    data, run = tmp_path / "data.zarr", tmp_path / "run"
    record(
        *("grid/predator_prey", data),
        environment_kwargs=board,
        expert=str(tmp_path / "expert"),
        episodes=8,
        threads=1,
        partner=None,
    )
    distill(data, run, distill_recipe(method="kl", hidden=8, settings=QUICK))
    allowed = Allowed(expert=tmp_path / "expert")
    done = ppd(
        *(run, tmp_path / "further"),
        frames=8 * 60,
        settings=SETTINGS,
        allowed=allowed,
        threads=1,
    )
    curve = (tmp_path / "further" / "training" / "seed-0" / "curve.jsonl").read_text()
    assert done.results[0].updates == len(curve.splitlines()) > 1


def test_run_json_states_how_each_seed_was_trained(place, further):
    _, manifest = further
    for recipe, (seed, digest) in zip(
        manifest.training, digests(open_run(place / "run").manifest()).items(), strict=True
    ):
        assert recipe["start"]["digest"] == digest
        assert recipe["seed"] == int(seed)
        assert recipe["kickstart"]["form"] == "proximal"
        assert (recipe["kickstart"]["frames"], recipe["frames"]) == (None, FRAMES)
        assert recipe["mask"] == "limited"


@pytest.mark.parametrize("student", [{}, {"aligner": "linear", "mask_as_input": True}])
def test_students_act_as_the_actors_that_were_trained_and_have_no_critic(place, student):
    name = "-".join(["own", *student])
    run = distilled(place, name, **student)
    output = place / f"{name}-further"
    ppd(run, output, frames=FRAMES, settings=SETTINGS, threads=1)
    policy = complete_run(output).teams[1]
    expert = checkpoint.load(output / "training" / "seed-1", "here")
    world = environments.load(SPREAD)
    seeds = np.arange(4, dtype=np.uint64)
    view = world.reset(seeds)
    memory, actor_memory = policy.start(seeds), expert.start(seeds)
    for _ in range(3):
        said, memory = policy.act(view, memory)
        wanted, actor_memory = expert.act(view, actor_memory)
        np.testing.assert_allclose(said.logits, wanted.logits, atol=1e-4)
        actions = wanted.logits.argmax(-1)
        view = world.step(actions).view
        object.__setattr__(view, "last_actions", actions)
    assert said.value is None
    assert {name.split(".")[0] for name in policy.team.state_dict()} <= {
        *("networks", "aligners", "mean", "std", "motion_std")
    }


def test_a_killed_training_continues_to_the_same_bits(place, further, tmp_path):
    def stop(step, values, series):
        if values.get("train/iteration") == 2:
            raise KeyboardInterrupt

    asked = {"frames": FRAMES, "settings": SETTINGS, "threads": 1}
    run, output = place / "run", tmp_path / "further"
    with pytest.raises(KeyboardInterrupt):
        ppd(run, output, observers=[FunctionObserver(metrics=stop)], **asked)
    assert open_run(output).manifest().status == "running"
    with pytest.raises(UsageError, match="is running, not complete"):
        complete_run(output)
    with pytest.raises(StorageError, match="already exists"):
        ppd(run, output, **asked)
    with pytest.raises(StorageError, match="begun with other students or settings"):
        ppd(run, output, resume=True, **asked | {"frames": 2 * FRAMES})
    done = ppd(run, output, resume=True, **asked)
    assert digests(done) == digests(further[1])
    assert ppd(run, output, resume=True, **asked) == done


def test_the_run_that_students_start_from_is_not_replaced(place, tmp_path):
    before = (place / "run" / "students.safetensors").read_bytes()
    for output in (place / "run", place / "." / "run"):
        with pytest.raises(StorageError, match="is what the students start from"):
            ppd(place / "run", output, frames=FRAMES, settings=SETTINGS, overwrite=True)
    assert (place / "run" / "students.safetensors").read_bytes() == before


def test_no_distillation_repeats_it(further, place):
    output, _ = further
    with pytest.raises(UsageError, match="which no distillation repeats"):
        rerun(output)
    recipe = distill_recipe(method="kl", mask="limited", hidden=8, seeds=2, settings=QUICK)
    with pytest.raises(UsageError, match="which no distillation repeats"):
        distill(place / "data.zarr", output, recipe, resume=True)


def test_what_cannot_be_trained_on_is_refused_and_nothing_is_made(place, tmp_path):
    run = distilled(place, "run-of-fusion", family="fusion")
    with pytest.raises(UsageError, match="have no experts that start from them"):
        ppd(run, tmp_path / "further", frames=FRAMES)
    with pytest.raises(CheckpointError):
        ppd(place / "run", tmp_path / "further", frames=FRAMES, allowed=Allowed(expert="nobody"))
    settings = QUICK | {"sparsity.target": 0.5}
    sparse = distill_recipe(method="kl", mask="limited", hidden=8, settings=settings)
    distill(place / "data.zarr", place / "sparse", sparse)
    with pytest.raises(UsageError, match="would fill their zeros"):
        ppd(place / "sparse", tmp_path / "further", frames=FRAMES)
    assert not (tmp_path / "further").exists()
