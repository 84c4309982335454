import numpy as np
import pytest

from kd_offline import environments
from kd_offline.datasets import DatasetWriter, EpisodeBlock, ExpertBuffer
from kd_offline.distributions.categorical import Categorical
from kd_offline.errors import CheckpointError, MismatchError, MissingArrayError, UsageError
from kd_offline.experts import checkpoint
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.expert import TrainedExpert
from kd_offline.experts.load import find, load
from kd_offline.recording.noise import perturbed
from kd_offline.recording.record import record
from kd_offline.recording.relabel import relabel
from kd_offline.recording.setup import make_block
from kd_offline.rollout.collect import collect
from kd_offline.schemas.dataset import ExpertRecord, RecordingHeader, RecordingRecord
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe
from kd_offline.seeding import episode_seeds
from kd_offline.testing.factories import tiny_dataset
from kd_offline.testing.targets import TargetsEnvironment
from tests.unit.recording.tampering import rewritten

TASKS = ("mpe/simple_spread_v3", "mpe/simple_speaker_listener_v4", "mpe/simple_adversary_v3")


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    path = tmp_path_factory.mktemp("relabel") / "d.zarr"
    record(TASKS[0], path, episodes=12, batch=12, threads=1)
    return ExpertBuffer.open(path)


def fresh_expert(spec, reference, **architecture):
    """An untrained expert whose inputs include its last action and the change of its view."""
    recipe = TrainRecipe(
        environment=spec.id,
        architecture=ExpertArchitecture(
            **{"trunk": (8,), "gru": 8, "motion": True, "last_action": True} | architecture
        ),
    )
    card = ExpertCard(
        environment=spec,
        recipe=recipe,
        agents=spec.agents,
        parameters={"actor": 1, "critic": 1},
        frames=0,
        seconds=0.0,
        threads=1,
        finished=True,
    )
    team = checkpoint.build(card)
    team.load(team.weights())
    return TrainedExpert(card, "sha256:" + "1" * 64, team, reference)


def worst(report, name):
    return report.arrays[name].max_error


def ragged(path, expert, world):
    seeds = episode_seeds(2, 0, 24)
    behaviour = perturbed(seeds, np.full(24, 0.3, np.float32))
    without = ("state",) if world.spec.state_is_obs else ()
    played = collect(world, expert, seeds, behaviour, without=without)
    block = make_block(played, seeds, np.full(24, 0.3, np.float32))
    header = RecordingHeader(
        name="ragged",
        environment=world.spec,
        experts=(
            ExpertRecord(
                id=0, kind="mappo", reference="trained", parameters=1, digest=expert.digest
            ),
        ),
        recording=RecordingRecord(seed=2, episodes=24),
    )
    with DatasetWriter.create(path, header) as writer:
        writer.append(EpisodeBlock(block.steps, block.final, block.episodes))
        writer.commit()
    return ExpertBuffer.open(path)


@pytest.mark.parametrize("task", TASKS)
def test_a_bundled_expert_is_recognised_and_says_the_same(task, tmp_path):
    record(task, tmp_path / "d", episodes=8, batch=8, threads=1, embedding_dtype="float16")
    report = relabel(tmp_path / "d", 8)
    assert report.ok
    assert report.first is None
    assert set(report.arrays) == {
        "steps/logits",
        "steps/value",
        "steps/embedding",
        "final/value",
    }
    (expert,) = report.experts
    assert (expert.reference, expert.same) == ("bundled", True)
    assert report.policy.max_kl < 1e-9
    assert worst(report, "steps/embedding") < 1e-3


@pytest.mark.parametrize("variant", ["bundled:mlp", "bundled"])
def test_every_variant_is_found_by_its_digest(variant, spread):
    expert = load(variant, spread.spec)
    assert find(expert.digest, spread.spec).reference == variant
    assert find("sha256:" + "0" * 64, spread.spec) is None
    assert find(None, spread.spec) is None


def test_memories_last_actions_and_ragged_ends_are_those_of_the_recording(tmp_path, monkeypatch):
    world = TargetsEnvironment()
    expert = fresh_expert(world.spec, "fresh")
    buffer = ragged(tmp_path / "d", expert, world)
    assert len(set(buffer.episodes("length").tolist())) > 2
    monkeypatch.setattr("kd_offline.recording.relabel.load", lambda *_, **__: expert)
    report = relabel(buffer, 24, experts=["fresh"])
    assert report.ok, report.first
    assert worst(report, "final/value") < 1e-5
    assert report.steps == buffer.n_steps


def test_another_expert_is_caught(spread):
    report = relabel(spread, 12, experts=["bundled:mlp"])
    assert not report.ok
    assert not report.experts[0].same
    assert report.policy.mean_kl > 0.1
    assert report.first.array == "steps/logits"
    assert (report.first.episode, report.first.step) == (0, 0)


def test_labels_of_another_checkpoint_are_caught_without_naming_one(spread, tmp_path):
    """The file says which weights labelled it; its labels are from others."""
    wrong = np.random.default_rng(0).normal(0, 0.05, spread.array("steps/logits").spec.shape)
    changes = {"steps/logits": lambda x: (x + wrong).astype(np.float32)}
    report = relabel(rewritten(spread, tmp_path / "d", changes), 12)
    assert not report.ok
    assert report.experts[0].same
    assert [n for n, gap in report.arrays.items() if not gap.ok] == ["steps/logits"]
    assert 1e-4 < report.policy.mean_kl < 0.1


def test_one_wrong_label_is_found_where_it_is(spread, tmp_path):
    def change(values):
        values[3 * 25 + 6, 1] += 0.5
        return values

    report = relabel(rewritten(spread, tmp_path / "d", {"steps/value": change}), 12)
    assert report.arrays["steps/value"].outside == 1
    assert report.arrays["steps/value"].max_error == pytest.approx(0.5, abs=1e-4)
    found = report.first
    assert (found.episode, found.step, found.array, found.agent) == (3, 6, "steps/value", "agent_1")
    assert float(found.stored) == pytest.approx(float(found.got) + 0.5, abs=1e-4)


def test_divergence_of_the_policy_is_what_the_formula_says(spread, tmp_path):
    """One row whose stored logits are all equal: KL(uniform, expert) by hand."""
    row = 2 * 25 + 4
    logits = spread.read("steps/logits")[row, 0]

    def flatten(values):
        values[row, 0] = 0.0
        return values

    report = relabel(rewritten(spread, tmp_path / "d", {"steps/logits": flatten}), 12)
    expert = Categorical(logits, np.ones(logits.shape, bool)).log_probabilities
    by_hand = float((np.log(0.2) - expert).mean())
    assert report.policy.max_kl == pytest.approx(by_hand, rel=1e-4)
    assert report.policy.mean_kl == pytest.approx(by_hand / (12 * 25 * 3), rel=1e-3)


def test_experts_are_told_apart_by_episode(spread, tmp_path):
    """Half of the episodes are labelled by another expert, as after a merge."""
    record(TASKS[0], tmp_path / "mlp", expert="bundled:mlp", episodes=12, batch=12, threads=1)
    other = ExpertBuffer.open(tmp_path / "mlp")
    late = np.arange(12) >= 6
    rows = np.repeat(late, 25)
    second = other.manifest.experts[0].model_copy(update={"id": 1})
    names = [n for n in spread.names if n.startswith(("steps/", "final/")) and "embed" not in n]

    def halves(name):
        take = rows if name.startswith("steps/") else late
        return lambda values: np.concatenate([values[~take], other.read(name)[take]])

    merged = rewritten(
        spread,
        tmp_path / "merged",
        {name: halves(name) for name in names}
        | {"episodes/expert_id": lambda _: late.astype(np.int16)},
        manifest={"experts": (spread.manifest.experts[0], second)},
        without=("steps/embedding",),
    )
    report = relabel(merged, 12)
    assert report.ok, report.first
    assert [(e.id, e.reference) for e in report.experts] == [(0, "bundled"), (1, "bundled:mlp")]
    swapped = rewritten(merged, tmp_path / "swapped", {"episodes/expert_id": lambda x: 1 - x})
    assert relabel(swapped, 12).first.episode == 0


def test_what_cannot_be_compared_says_so(spread, tmp_path):
    silent = ("steps/logits", "steps/value", "steps/embedding", "final/value")
    with pytest.raises(MissingArrayError, match="no logits, values or embeddings"):
        relabel(rewritten(spread, tmp_path / "a", without=silent), 1)
    unknown = spread.manifest.experts[0].model_copy(update={"digest": "sha256:" + "5" * 64})
    stranger = rewritten(spread, tmp_path / "b", manifest={"experts": (unknown,)})
    with pytest.raises(UsageError, match="with kd-offline: pass its folder as experts"):
        relabel(stranger, 1)
    assert relabel(stranger, 12, experts=["bundled"]).ok, "other name of the same weights"
    with pytest.raises(UsageError, match="names no expert"):
        relabel(rewritten(spread, tmp_path / "c", manifest={"experts": ()}), 1)
    with pytest.raises(CheckpointError):
        relabel(spread, 1, experts=[tmp_path / "nothing"])
    with pytest.raises(UsageError, match="does not come with kd-offline"):
        relabel(tiny_dataset(tmp_path / "d"), 1)
    narrow = rewritten(spread, tmp_path / "e", {"steps/embedding": lambda x: x[..., :7]})
    with pytest.raises(MismatchError, match="holds 7 numbers"):
        relabel(narrow, 1)


def test_final_values_do_not_depend_on_the_batch():
    """A critic with a memory sees the last view of an episode once, however long others go on."""
    world = TargetsEnvironment()
    expert = fresh_expert(world.spec, "fresh")
    seeds = episode_seeds(2, 0, 24)
    behaviour = perturbed(seeds, np.zeros(24, np.float32))
    together = collect(world, expert, seeds, behaviour)
    shortest = int(together.length.argmin())
    mine = seeds[shortest : shortest + 1]
    alone = collect(world, expert, mine, perturbed(mine, np.zeros(1, np.float32)))
    np.testing.assert_allclose(
        together.final["value"][shortest], alone.final["value"][0], rtol=1e-5, atol=1e-6
    )


def test_an_environment_is_not_needed(spread, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(environments, "load", refuse)
    assert relabel(spread, 2).ok
