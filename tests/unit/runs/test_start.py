"""Students of a run become experts that learn on: the same play at first, and every check."""

import json

import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.validation.integrity import verify
from kd_offline.errors import CheckpointError, MismatchError, UnknownNameError, UsageError
from kd_offline.experts import checkpoint, start
from kd_offline.experts.load import load
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.team import ActorCritic
from kd_offline.experts.train import train
from kd_offline.experts.views import Seen
from kd_offline.exports.compact import compact, compact_expert
from kd_offline.recording.record import record
from kd_offline.recording.relabel import relabel
from kd_offline.rollout.collect import collect_sampled
from kd_offline.runs.folder import create_run
from kd_offline.runs.start import start_settings
from kd_offline.schemas.layers import LayerWidths
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.seeding import episode_seeds
from kd_offline.students import policy as students
from kd_offline.students.masks import resolve
from kd_offline.testing.reports import run_manifest
from kd_offline.tracking.base import FunctionObserver

SPREAD = "mpe/simple_spread_v3"
TINY = {
    "architecture.critic_trunk": (8,),
    "architecture.critic_gru": 8,
    "episodes_per_batch": 16,
    "minibatches": 2,
    "epochs": 1,
    "frames": 4 * 16 * 25,
    "start.critic_frames": 2 * 16 * 25,
}


def make_run(
    folder, *, task=SPREAD, mask="limited", layers=None, random_k=None, called=None, **architecture
):
    """Save a run of two teams, seeds 3 and 4, with weights and scales drawn at random."""
    spec = environments.load(task).spec
    shape = StudentArchitecture(hidden=8, **architecture)
    static = resolve(mask, spec).static
    spec = spec if called is None else spec.model_copy(update={"id": called})
    card = StudentCard(
        environment=spec,
        architecture=shape,
        widths=tuple(8 - i % 3 for i in range(spec.n_agents)),
        layers=layers,
        mask=mask,
        mask_features=None if static is None else tuple(tuple(map(bool, r)) for r in static),
        random_k=random_k,
        mask_as_input=bool(shape.mask_as_input),
        motion=bool(shape.motion),
        last_action=bool(shape.last_action),
        method="kd-marl",
        dataset="sha256:" + "3f9a" * 16,
        seeds=(3, 4),
    )
    teams = []
    for seed in card.seeds:
        rng = np.random.default_rng(seed)
        team = students.build(card, rng, card.widths_of(seed))
        with torch.no_grad():
            for parameter in team.parameters():
                parameter.add_(torch.from_numpy(rng.normal(0, 0.1, parameter.shape)))
        shapes = spec.n_agents, spec.obs_width
        team.mean.copy_(torch.from_numpy(rng.normal(0, 0.3, shapes)))
        team.std.copy_(torch.from_numpy(rng.uniform(0.2, 2, shapes)))
        team.motion_std.copy_(torch.from_numpy(rng.uniform(0.05, 0.3, shapes)))
        teams.append(team)
    manifest = run_manifest(seeds=card.seeds, agents=spec.agents)
    results = [
        result.model_copy(update={"digest": students.digest(team)})
        for result, team in zip(manifest.results, teams, strict=True)
    ]
    stated: dict[str, object] = {
        "environment": spec.id,
        "environment_kwargs": spec.kwargs,
        "mask": mask,
    }
    stated |= {"results": tuple(results), "students": manifest.students[: spec.n_agents]}
    stated |= {"dataset": manifest.dataset.model_copy(update={"id": card.dataset})}
    run = create_run(folder, manifest.model_copy(update=stated))
    students.save(run.students, card, teams)
    return folder


def recipe(run, seed=None, **settings):
    return train_recipe(start=start_settings(run, seed), settings=TINY | settings)


def begun(run, folder, seed=None, **settings):
    """Return the expert that a training begins as, before it learned anything."""
    chosen = recipe(run, seed, **settings)

    def stop(step, values, series):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            chosen,
            folder,
            threads=1,
            observers=[FunctionObserver(metrics=stop)],
            score_episodes=0,
        )
    spec = environments.load(chosen.environment).spec
    return load(folder, spec)


PRUNED = (
    (LayerWidths(trunk=(5, 7), gru=6),) * 3,
    tuple(LayerWidths(trunk=(4 + i, 6), gru=8 - i) for i in range(3)),
)


@pytest.mark.parametrize(
    "made",
    [
        {"motion": True, "last_action": True},
        {"mask": "full"},
        {"depth": 0, "motion": True},
        {"depth": 1, "kind": "mlp", "last_action": True},
        {"depth": 0, "kind": "mlp", "motion": True},
        {"aligner": "linear", "motion": True, "last_action": True},
        {"mask_as_input": True, "motion": True},
        {"layers": PRUNED, "motion": True},
        {"task": "mpe/simple_adversary_v3", "motion": True, "last_action": True},
        {"task": "mpe/simple_speaker_listener_v4", "motion": True, "last_action": True},
    ],
    ids=lambda made: "-".join(map(str, made)),
)
def test_it_begins_as_the_students_play(made, tmp_path):
    """Logits along recorded steps, in float32; deployed networks, within rounding of a fold."""
    run = make_run(tmp_path / "run", **made)
    expert = begun(run, tmp_path / "tuned", seed=4)
    (student,) = (team for team in students.load(run) if team.seed == 4)
    world, seeds = environments.load(made.get("task", SPREAD)), episode_seeds(7, 0, 12)
    played = collect_sampled(world, student, seeds)
    ours, theirs = expert.start(seeds), student.start(seeds)
    for step, running in enumerate(played.valid):
        mine, ours = expert.act(played.view(step), ours)
        wanted, theirs = student.act(played.view(step), theirs)
        np.testing.assert_allclose(
            mine.logits[running], wanted.logits[running], rtol=1e-5, atol=2e-5
        )
    for one, other in zip(compact_expert(expert), compact(student), strict=True):
        assert (one.macs, one.parameters) == (other.macs, other.parameters)
        np.testing.assert_allclose(one.head.weight, other.head.weight, atol=1e-6)


def test_whole_episodes_say_what_steps_say(tmp_path):
    run = make_run(tmp_path / "run", motion=True, last_action=True)
    model = begun(run, tmp_path / "tuned").team.model
    world, seeds = environments.load(SPREAD), episode_seeds(7, 0, 6)
    played = collect_sampled(world, students.load(run)[0], seeds)
    obs, actions = (torch.from_numpy(played.steps[name]) for name in ("obs", "actions"))
    before = torch.cat([torch.full_like(actions[:1], -1), actions[:-1]])
    state = torch.from_numpy(played.steps["state"])
    whole = model.act_episodes(Seen(obs, state), before, torch.full((6, 3), len(obs)))
    memory = model.start(6)
    for step, now in enumerate(obs):
        logits, _, memory, _ = model.act(Seen(now, state[step]), memory, before[step])
        torch.testing.assert_close(whole[step], logits, rtol=1e-4, atol=1e-5)


def test_the_critic_learns_first_then_all_and_a_resumed_training_has_the_same_weights(tmp_path):
    run = make_run(tmp_path / "run", motion=True, last_action=True)
    chosen = recipe(run, **{"kickstart.teacher": "bundled"})
    spec = environments.load(SPREAD).spec
    fresh = {n: p.clone() for n, p in begun(run, tmp_path / "a").team.model.named_parameters()}

    def after(iterations, folder):
        def stop(step, values, series):
            if values["train/iteration"] == iterations:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(
                chosen,
                folder,
                threads=1,
                observers=[FunctionObserver(metrics=stop)],
                score_episodes=0,
            )
        return dict(load(folder, spec).team.actors.named_parameters())

    # An interruption goes back to the last whole iteration: this is after two.
    warm = after(3, tmp_path / "b")
    for name, value in warm.items():
        assert torch.equal(value, fresh[name]) == name.startswith("actors"), name
    train(chosen, tmp_path / "b", threads=1, resume=True, score_episodes=0)
    after(2, tmp_path / "c")
    train(chosen, tmp_path / "c", threads=1, resume=True, score_episodes=0)
    card = train(chosen, tmp_path / "d", threads=1, score_episodes=0)
    assert len({checkpoint.digest(tmp_path / name) for name in "bcd"}) == 1
    learned = dict(load(tmp_path / "d", spec).team.actors.named_parameters())
    assert not any(torch.equal(value, fresh[name]) for name, value in learned.items())
    rows = (tmp_path / "d" / checkpoint.CURVE).read_text().splitlines()
    assert ["teacher_kl" in json.loads(row) for row in rows] == [False, False, True, True]
    assert card.recipe.start == chosen.start


def test_it_says_where_it_began_and_under_which_mask(tmp_path):
    run = make_run(tmp_path / "run", motion=True)
    expert = begun(run, tmp_path / "tuned")
    stated = expert.card.recipe.start
    assert stated is not None
    assert (stated.run, stated.seed) == (str(run), 3)
    assert stated.digest == students.digest(students.load(run)[0].team)
    np.testing.assert_array_equal(expert.mask(), students.load(run)[0].mask.static)


def test_its_play_is_a_dataset_like_any_other(tmp_path):
    """Of students of unequal layers, so with widths that no single number says."""
    run = make_run(tmp_path / "run", layers=PRUNED, motion=True)
    train(recipe(run, 4), tmp_path / "tuned", threads=1, score_episodes=0)
    manifest = record(SPREAD, tmp_path / "d", expert=tmp_path / "tuned", episodes=8, threads=1)
    (expert,) = manifest.experts
    assert expert.digest == checkpoint.digest(tmp_path / "tuned")
    assert expert.architecture["widths"] == [each.model_dump(mode="json") for each in PRUNED[1]]
    assert verify(tmp_path / "d").ok
    assert relabel(ExpertBuffer.open(tmp_path / "d"), 4, experts=[str(tmp_path / "tuned")]).ok


def test_a_mask_of_the_users_own_needs_no_file(tmp_path):
    """Its name alone is in the run, and what it shows."""
    blocks = {agent: ["own_velocity", "landmarks"] for agent in ("agent_0", "agent_1", "agent_2")}
    lines = [f"{agent} = {json.dumps(seen)}" for agent, seen in blocks.items()]
    mine = tmp_path / "near.toml"
    mine.write_text("[agents]\n" + "\n".join(lines))
    run = make_run(tmp_path / "run", mask=str(mine), motion=True)
    mine.unlink()
    seen = begun(run, tmp_path / "tuned").mask()
    assert seen is not None
    assert seen.sum() == 3 * 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"architecture.widths": (8, 8, 8)}, r"architecture.widths is \(8, 8, 8\).*\(8, 7, 6\)"),
        ({"architecture.motion": False}, "architecture.motion is False"),
        ({"architecture.gru": 16}, "architecture.gru is 16"),
        ({"mask": "paper"}, "mask is 'paper'"),
    ],
)
def test_other_networks_than_the_students_are_refused(settings, said, tmp_path):
    run = make_run(tmp_path / "run", motion=True)
    with pytest.raises(MismatchError, match=said + ".*leave it out"):
        train(recipe(run, **settings), tmp_path / "tuned", threads=1)
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("made", "said"),
    [({"mask": "random-k"}, "drawn anew"), ({"rank_share": 0.5}, "of low rank")],
)
def test_networks_that_no_expert_has_are_refused(made, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        start_settings(make_run(tmp_path / "run", **made))


def test_actors_of_another_scale_cannot_start_from_students(tmp_path):
    """An algorithm of a plug-in may build what it likes."""
    run = make_run(tmp_path / "run")
    spec, chosen = environments.load(SPREAD).spec, recipe(run)
    actors = ActorCritic(spec, chosen.architecture, None, np.random.default_rng(0))
    with pytest.raises(UsageError, match="cannot start from any: choose mappo or ippo"):
        start.begin(actors, students.load(run)[0])


def test_other_names_are_refused(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(UnknownNameError, match="unknown seed of the run '7': allowed are 3, 4"):
        start_settings(run, 7)
    with pytest.raises(MismatchError, match="is of the environment 'mpe/simple_spread_v3', not"):
        start_settings(run, environment="smax/3m")
    with pytest.raises(UsageError, match="is not a run"):
        start_settings(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="the recipe: start should be None"):
        train_recipe(start=start_settings(run), algorithm="qmix", critic="none")


def altered(path, old, new):
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))


def test_a_run_that_was_altered_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    chosen = recipe(run)
    altered(run / "run.json", b'"limited"', b'"literal"')
    with pytest.raises(CheckpointError, match="does not match its own digest"):
        start_settings(run)
    other = make_run(tmp_path / "other", depth=1)
    (run / "students.safetensors").write_bytes((other / "students.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"of seed 3 .* are not those that the recipe starts"):
        train(chosen, tmp_path / "tuned", threads=1)
    again = make_run(tmp_path / "again")
    path = again / "students.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for attempt in (lambda: start_settings(again), lambda: train(chosen, tmp_path / "tuned")):
        with pytest.raises(CheckpointError):
            attempt()
    assert not (tmp_path / "tuned").exists()


def test_students_of_another_run_are_refused(tmp_path):
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", depth=1)
    (run / "students.safetensors").write_bytes((other / "students.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"not the ones that its run\.json describes"):
        start_settings(run)


def test_a_run_may_not_choose_what_code_runs(tmp_path):
    theirs = make_run(tmp_path / "theirs", called="pettingzoo/os:system")
    with pytest.raises(UsageError, match="if you trust that code, run train_recipe"):
        start_settings(theirs)


def test_a_recipe_file_may_not_choose_the_run(tmp_path):
    run = make_run(tmp_path / "run", motion=True)
    begun(run, tmp_path / "tuned")
    file = tmp_path / "tuned" / "expert.json"
    with pytest.raises(UsageError, match="pass start with it"):
        train_recipe(file=file)
    same = train_recipe(file=file, start=start_settings(run))
    assert same == checkpoint.read_card(tmp_path / "tuned").recipe
