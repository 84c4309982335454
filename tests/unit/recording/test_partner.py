import numpy as np
import pytest

from kd_offline import environments
from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distributions.categorical import Categorical
from kd_offline.errors import CheckpointError, MismatchError
from kd_offline.recording.noise import perturbed
from kd_offline.recording.partner import load_partner, with_partner
from kd_offline.recording.record import record
from kd_offline.seeding import episode_seeds

SPREAD = "mpe/simple_spread_v3"
SPEC = environments.load(SPREAD).spec
SEEDS = episode_seeds(0, 0, 400)


def first_choice(share=1.0, level=0.0, seeds=SEEDS):
    """Return the view, the choice and the partner of the first step; the expert always stays."""
    world = environments.load(SPREAD)
    view = world.reset(seeds)
    partner = load_partner("bundled", SPEC, share)
    assert partner is not None
    logits = np.tile(np.array([50.0, 0, 0, 0, 0], np.float32), (len(seeds), 3, 1))
    inner = perturbed(seeds, np.full(len(seeds), level, np.float32))
    expert = Categorical(logits, view.available_actions)
    choice = with_partner(seeds, inner, partner)(0, view, expert)
    assert choice.source is not None
    assert choice.logprob is not None
    return view, choice, partner


def test_share_of_episodes_and_agents():
    _, choice, _ = first_choice(share=0.4)
    played = choice.source == ACTION_SOURCES["other"]
    assert played.any(1).mean() == pytest.approx(0.4, abs=0.08)
    alone = played[played.any(1)]
    # one agent for certain, each of the other two with probability 3/4
    assert alone.sum(1).mean() == pytest.approx(2.5, abs=0.15)
    np.testing.assert_allclose(alone.mean(0), 2.5 / 3, atol=0.1)


def test_actions_are_the_partners_and_log_probabilities_its_own():
    view, choice, partner = first_choice()
    played = choice.source == ACTION_SOURCES["other"]
    output, _ = partner.policy.act(view, partner.policy.start(SEEDS))
    theirs = Categorical(output.logits, view.available_actions)
    taken, best = theirs.log_prob(choice.actions), theirs.mode()
    greedy = played & (choice.logprob == 0)
    sampled = played & ~greedy
    assert greedy.any(1).mean() == pytest.approx(0.7, abs=0.08)
    np.testing.assert_array_equal(choice.actions[greedy], best[greedy])
    np.testing.assert_allclose(choice.logprob[sampled], taken[sampled], atol=1e-5)
    assert (choice.actions[~played] == 0).all()
    assert (choice.source[~played] == ACTION_SOURCES["expert"]).all()


def test_an_episode_does_not_depend_on_its_batch():
    _, together, _ = first_choice()
    _, alone, _ = first_choice(seeds=SEEDS[30:33])
    np.testing.assert_array_equal(together.actions[30:33], alone.actions)


def test_a_batch_in_which_the_partner_plays_no_episode_is_the_experts():
    _, choice, _ = first_choice(share=0.001, seeds=SEEDS[:3])
    assert choice.source is not None
    assert (choice.source == ACTION_SOURCES["expert"]).all()


def test_labels_stay_the_experts(tmp_path):
    """The partner changes what is visited, never what the expert says of a view."""
    path = tmp_path / "d"
    record(SPREAD, path, episodes=20, batch=20, threads=1, partner_share=1.0, noise_mixture=())
    buffer = ExpertBuffer.open(path)
    assert buffer.manifest.recording.settings["partner"] == "bundled"
    source = buffer.read("steps/action_source")
    assert (source == ACTION_SOURCES["other"]).mean() > 0.6
    own = source == ACTION_SOURCES["expert"]
    policy = Categorical(buffer.read("steps/logits"), buffer.read("steps/available_actions"))
    taken = policy.log_prob(buffer.read("steps/actions").astype(int))
    recorded = buffer.read("steps/behaviour_logprob")
    np.testing.assert_allclose(taken[own], recorded[own], atol=1e-4)


def test_a_run_folder_is_a_partner_and_a_second_round_repeats(tmp_path):
    record(SPREAD, tmp_path / "a", episodes=30, batch=30, threads=1, partner=None)
    recipe = distill_recipe(method="kl", hidden=4, settings={"optimisation.epochs": 1})
    distill(tmp_path / "a", tmp_path / "run", recipe)
    ids = [
        record(
            SPREAD, tmp_path / name, episodes=10, batch=10, threads=1, partner=tmp_path / "run"
        ).id
        for name in ("b", "c")
    ]
    assert ids[0] == ids[1]


def test_nobody_where_there_is_no_partner():
    other = environments.load("mpe/simple_speaker_listener_v4").spec
    assert load_partner("bundled", other, 0.5) is None
    assert load_partner("none", SPEC, 0.5) is None
    assert load_partner("bundled", SPEC, 0.0) is None
    assert load_partner("bundled", environments.load(SPREAD, n_agents=4).spec, 0.5) is None


def test_a_partner_that_does_not_fit_or_is_not_there(tmp_path):
    bundled = load_partner("bundled", SPEC, 0.5)
    assert bundled is not None
    with pytest.raises(CheckpointError, match="there are no students at"):
        load_partner(tmp_path, SPEC, 0.5)
    record(SPREAD, tmp_path / "a", episodes=10, batch=10, threads=1, partner=None)
    distill(
        tmp_path / "a",
        tmp_path / "run",
        distill_recipe(method="kl", hidden=4, settings={"optimisation.epochs": 1}),
    )
    adversary = environments.load("mpe/simple_adversary_v3").spec
    with pytest.raises(MismatchError, match="does not fit mpe/simple_adversary_v3"):
        load_partner(tmp_path / "run", adversary, 0.5)
