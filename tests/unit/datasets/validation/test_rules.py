"""Values that break a rule of the format are found and named with their place."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kd_offline.datasets.format import layout
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.validation.integrity import verify
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.schemas.dataset import RecordingHeader
from kd_offline.sealed_json import seal
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    full_mask,
    header,
    tiny_dataset,
)

SPEC = environment_spec((6, 3), (5, 2))


def _set(name, index, value):
    def change(block: EpisodeBlock) -> None:
        group, bare = name.split("/")
        getattr(block, group)[bare][index] = value

    return change


def _take_illegal_action(block: EpisodeBlock) -> None:
    block.steps["available_actions"][20] = True
    block.steps["available_actions"][20, 0, 3] = False
    block.steps["actions"][20, 0] = 3


RULES = [
    (_take_illegal_action, "steps/actions row 20 (episode 2)", "not available"),
    (_set("steps/available_actions", (20, 1), False), "steps/alive row 20", "no legal action"),
    (_set("steps/actions", (0, 1), 4), "steps/actions row 0 (episode 0)", "no such action"),
    (_set("steps/actions", (29, 1), -1), "steps/actions row 29 (episode 2)", "no such action"),
    (_set("steps/behaviour_logprob", (3, 0), 0.5), "behaviour_logprob row 3", "positive"),
    (_set("steps/action_source", (3, 0), 9), "action_source row 3", "not one of"),
    (_set("steps/obs", (17, 1, 5), 1.0), "steps/obs row 17 (episode 1)", "padding"),
    (_set("steps/terminated", 12, True), "steps/terminated row 12 (episode 1)", "before its last"),
    (_set("steps/truncated", 17, False), "steps/terminated row 17 (episode 1)", "neither"),
    (_set("episodes/expert_id", 1, 3), "episodes/expert_id episode 1", "recorded experts"),
    (_set("steps/behaviour_logprob", (21, 1), -9.0), "logprob row 21 (episode 2)", "follow from"),
    (_set("steps/logits", (4, 0), 7.0), "steps/behaviour_logprob row 4 (episode 0)", "follow from"),
    (_set("episodes/noise_level", 2, 0.5), "behaviour_logprob row 18 (episode 2)", "noise level"),
    (_set("episodes/noise_level", 2, 0.5), "noise_level episode 2", "recorded mixture"),
    (_set("steps/embedding", (slice(None), 1), 0.5), "steps/embedding", "every step of agent_1"),
    (_set("steps/available_actions", (6, 1, 4), True), "available_actions row 6", "does not have"),
    (_set("final/available_actions", (1, 1, 4), True), "row 1 (episode 1)", "does not have"),
    (_set("final/obs", (2, 1, 4), 1.0), "final/obs row 2 (episode 2)", "padding"),
    (_set("episodes/won", 1, 2), "episodes/won episode 1", "is not 1 (won)"),
]


@pytest.mark.parametrize(("change", "where", "what"), RULES)
def test_values_that_break_a_rule(tmp_path, small_chunks, change, where, what):
    block = episode_block(SPEC, [10, 8, 12])
    change(block)
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer:
        writer.append(block)
        writer.commit({"full": full_mask(SPEC)})
    assert verify(tmp_path / "d.zarr", quick=True).ok
    problems = verify(tmp_path / "d.zarr").problems
    assert any(where in p.where and what in p.what for p in problems), problems


def mixed_block():
    """A team of two that adds its values up, and its best legal actions."""
    block = episode_block(SPEC, [10, 8, 12])
    steps = block.steps
    steps["alive"][4, 1] = False
    q = np.random.default_rng(0).standard_normal((30, 2, 5)).astype(np.float32)
    taken = np.take_along_axis(q, steps["actions"][..., None], -1)[..., 0]
    best = np.where(steps["available_actions"], q, -np.inf).max(-1)
    alive = steps["alive"]
    mixed = {"q_values": q, "mixer_credit": alive.astype(np.float32)}
    mixed |= {"q_tot": (taken * alive).sum(-1), "q_tot_max": (best * alive).sum(-1)}
    said = {k: v for k, v in steps.items() if k not in ("logits", "behaviour_logprob")}
    return replace(block, steps=said | mixed)


def mixed_header(mixer):
    head = header(SPEC, masks=())
    (expert,) = head.experts
    return head.model_copy(
        update={"experts": (expert.model_copy(update={"architecture": {"mixer": mixer}}),)}
    )


MIXING = [
    (_set("steps/mixer_credit", (3, 1), -0.5), "steps/mixer_credit row 3", "negative credit"),
    (_set("steps/mixer_credit", (3, 1), 0.0), "steps/mixer_credit row 3", "credit of one"),
    (_set("steps/q_tot_max", 11, -99.0), "steps/q_tot row 11 (episode 1)", "above q_tot_max"),
    (_set("steps/q_tot", 20, -99.0), "steps/q_tot row 20 (episode 2)", "is not the sum"),
    (_set("steps/q_values", (20, 0), -99.0), "steps/q_tot row 20 (episode 2)", "is not the sum"),
]


@pytest.mark.parametrize(("change", "where", "what"), MIXING)
def test_a_teams_value_that_breaks_a_rule(tmp_path, change, where, what):
    block = mixed_block()
    assert verify(written(tmp_path / "a", block, head=mixed_header("vdn"))).problems == ()
    change(block)
    problems = verify(written(tmp_path / "b", block, head=mixed_header("vdn"))).problems
    assert any(where in p.where and what in p.what for p in problems), problems


def broken_mixing():
    """Values that no sum has, with a credit that no monotone mixer gives."""
    block = mixed_block()
    block.steps["q_tot"] -= 1
    block.steps["mixer_credit"] *= 0.3
    block.steps["mixer_credit"][3, 1] = -0.1
    return block


@pytest.mark.parametrize("mixer", ["qmix", "qatten", "wqmix"])
def test_monotone_mixers_need_not_add_up_and_give_no_negative_credit(mixer, tmp_path):
    block = broken_mixing()
    (problem,) = verify(written(tmp_path / "a", block, head=mixed_header(mixer))).problems
    assert "negative credit" in problem.what
    block.steps["mixer_credit"][3, 1] = 0.1
    assert verify(written(tmp_path / "b", block, head=mixed_header(mixer))).ok


@pytest.mark.parametrize("mixer", ["qplex", "qtran"])
def test_mixers_that_agents_can_maximise_alone_have_no_value_above_the_greedy_one(mixer, tmp_path):
    block = broken_mixing()
    assert verify(written(tmp_path / "a", block, head=mixed_header(mixer))).ok
    block.steps["q_tot_max"][11] = -99.0
    (problem,) = verify(written(tmp_path / "b", block, head=mixed_header(mixer))).problems
    assert "above q_tot_max" in problem.what


@pytest.mark.parametrize("mixer", ["a mixer of a later version", None, ["vdn"]])
def test_of_an_unknown_mixer_nothing_is_demanded(mixer, tmp_path):
    block = broken_mixing()
    block.steps["q_tot_max"][11] = -99.0
    assert verify(written(tmp_path / "a", block, head=mixed_header(mixer))).ok


def test_a_rule_of_mixers_holds_where_it_holds_for_all_of_them(tmp_path):
    block, head = broken_mixing(), mixed_header("vdn")
    (other,) = mixed_header("qplex").experts
    both = head.model_copy(update={"experts": (*head.experts, other.model_copy(update={"id": 1}))})
    episodes = block.episodes | {"expert_id": np.array([0, 1, 0], np.int16)}
    block = replace(block, episodes=episodes)
    assert verify(written(tmp_path / "a", block, head=both)).ok
    block.steps["q_tot_max"][11] = -99.0
    (problem,) = verify(written(tmp_path / "b", block, head=both)).problems
    assert "above q_tot_max" in problem.what


def test_a_rule_of_mixers_is_of_their_kind(tmp_path, monkeypatch):
    monkeypatch.setitem(layout.MIXERS, "another sum", layout.MixerKind.ADDITIVE)
    block = mixed_block()
    assert verify(written(tmp_path / "a", block, head=mixed_header("another sum"))).ok
    block.steps["q_tot"] -= 1
    report = verify(written(tmp_path / "b", block, head=mixed_header("another sum")))
    assert any("is not the sum" in problem.what for problem in report.problems)


def written(path, block, masks=None, head=None):
    with DatasetWriter.create(path, head or header(SPEC, masks=masks or {})) as writer:
        writer.append(block)
        writer.commit(masks)
    return path


def recorded(**changes):
    head = header(SPEC, masks=()).model_dump()
    return RecordingHeader.model_validate(head | {"recording": head["recording"] | changes})


def test_log_probabilities_of_noise_and_of_other_policies(tmp_path):
    """A mixture of a tenth with two agents; what another policy chose cannot be known."""
    block = episode_block(SPEC, [10, 8])
    block.episodes["noise_level"][:] = 0.1
    legal = block.steps["available_actions"]
    weights = np.exp(block.steps["logits"].astype(np.float64)) * legal
    taken = np.take_along_axis(weights, block.steps["actions"][..., None].astype(int), -1)[..., 0]
    mixed = 0.95 * taken / weights.sum(-1) + 0.05 / legal.sum(-1)
    block.steps["behaviour_logprob"][:] = np.log(mixed)
    block.steps["action_source"][::2] = 1
    block.steps["action_source"][3] = 2
    block.steps["behaviour_logprob"][3] = -5
    head = recorded(noise=[{"level": 0.1, "share": 1}])
    assert verify(written(tmp_path / "d.zarr", block, head=head)).ok


def test_unknown_behaviour_has_no_mixture_to_check(tmp_path):
    block = episode_block(SPEC, [10])
    block.steps["behaviour_logprob"][4] = -5
    head = recorded(behaviour="unknown")
    assert verify(written(tmp_path / "d.zarr", block, head=head)).ok


def test_an_embedding_may_be_constant_where_the_observation_is(tmp_path):
    block = episode_block(SPEC, [10])
    block.steps["embedding"][:, 0] = 1
    block.steps["obs"][:, 0] = 2
    assert verify(written(tmp_path / "d.zarr", block)).ok
    block = episode_block(SPEC, [10])
    block.steps["embedding"][1:, 0] = 1
    block.steps["alive"][0, 0] = False
    (problem,) = verify(written(tmp_path / "e.zarr", block)).problems
    assert (problem.where, "agent_0" in problem.what) == ("steps/embedding", True)


@pytest.mark.parametrize("by_episode", [False, True])
def test_masks_that_show_padding(tmp_path, by_episode):
    mask = full_mask(SPEC)
    if by_episode:
        mask = np.repeat(mask[None], 3, axis=0)
        mask[2, 1, 5] = True
    else:
        mask[1, 5] = True
    buffer = tiny_dataset(tmp_path / "d.zarr", 3, spec=SPEC, masks={"odd": mask})
    (problem,) = verify(buffer.path).problems
    assert problem.where == ("masks/odd episode 2" if by_episode else "masks/odd agent 1")
    assert "padding" in problem.what


def test_the_same_episode_in_two_splits(tmp_path):
    block = episode_block(SPEC, [5] * 6)
    block.episodes["seed"][4] = block.episodes["seed"][1]
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC, masks=())) as writer:
        writer.append(block)
        codes = np.array([0, 0, 0, 0, 1, 0], np.uint8)
        writer.commit(splits=Splits(codes, {"train": 0, "heldout": 1}))
    (problem,) = verify(tmp_path / "d.zarr").problems
    assert problem.where == "episodes/split episode 4"
    assert "same episode as 1" in problem.what


def lie(path, change):
    """Alter the manifest by ``change``, with the id that follows, and seal it again."""
    document = json.loads((path / "manifest.json").read_bytes())
    change(document)
    layout.update_identity(document)
    document.pop("manifest_digest")
    (path / "manifest.json").write_bytes(seal(document))


FIGURES = [
    (lambda s: s["returns"].update(mean=99.0), "statistics.returns.mean is 99.0"),
    (lambda s: s["agent_returns"][1].update(std=0.5), "statistics.agent_returns.1.std is 0.5"),
    (lambda s: s["action_counts"][0].__setitem__(0, 1), "statistics.action_counts.0.0 is 1"),
    (lambda s: s["values"]["steps/obs"].update(max=0.0), "statistics.values.steps/obs.max is 0.0"),
    (lambda s: s.update(episodes=7), "statistics.episodes is 7"),
    (lambda s: s.update(won=0.9), "statistics.won is 0.9"),
]


@pytest.mark.parametrize(("change", "what"), FIGURES)
def test_statistics_that_the_data_do_not_have(ragged, change, what):
    lie(ragged.path, lambda document: change(document["statistics"]))
    assert verify(ragged.path, quick=True).ok
    (problem,) = verify(ragged.path).problems
    assert problem.where == "manifest.json"
    assert what in problem.what


def test_steps_of_a_split_are_counted(ragged):
    lie(ragged.path, lambda document: document["splits"]["train"].update(steps=1))
    (problem,) = verify(ragged.path).problems
    assert problem.where == "episodes/split"
    assert "1 steps are train" in problem.what


def test_episodes_longer_than_the_limit(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr", lengths=[3, 26])
    (problem,) = verify(buffer.path).problems
    assert problem.where == "episodes/length episode 1"
    assert "episode limit of 25" in problem.what


def test_agents_that_wait_for_their_turn_break_no_rule(tmp_path):
    block = episode_block(SPEC, [10, 8])
    turn = np.arange(len(block.steps["alive"])) % 2
    waits = turn[:, None] != np.arange(2)
    block.steps["alive"][waits] = False
    block.steps["available_actions"][waits] = False
    block.steps["actions"][waits] = 0
    report = verify(written(tmp_path / "d.zarr", block))
    assert report.problems == ()


def test_many_bad_rows_are_one_problem(tmp_path):
    block = episode_block(SPEC, [10])
    block.steps["action_source"][:] = np.uint8(7)
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer:
        writer.append(block)
        writer.commit()
    (problem,) = verify(tmp_path / "d.zarr").problems
    assert "and 9 more rows" in problem.what
