import numpy as np
import pytest

from kd_offline.datasets import (
    DatasetWriter,
    EpisodeBlock,
    ExpertBuffer,
    append,
    filter,
    merge,
    split,
    verify,
)
from kd_offline.errors import MismatchError, UnknownNameError, UsageError
from kd_offline.schemas.dataset import Capture, NoiseLevel
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    full_mask,
    header,
    tiny_dataset,
)

DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def other(parent, tmp_path):
    return tiny_dataset(tmp_path / "other.zarr", 12, spec=parent.spec, seed=1)


def recorded(path, spec, *, masks=None, changes=None, expert=None, block=None, seed=2):
    """Record two episodes of which other things are said."""
    head = header(spec, seed=seed)
    if expert is not None:
        head = head.model_copy(update={"experts": (head.experts[0].model_copy(update=expert),)})
    head = head.model_copy(update=changes or {})
    with DatasetWriter.create(path, head) as writer:
        writer.append(block or episode_block(spec, [3, 4], seed=seed))
        writer.commit({"full": full_mask(spec)} if masks is None else masks)
    return ExpertBuffer.open(path)


def test_one_after_the_other(parent, other, tmp_path):
    manifest = merge([parent.path, other.path], tmp_path / "m.zarr")
    made = ExpertBuffer.open(tmp_path / "m.zarr")
    assert verify(made.path).ok
    for name in made.names:
        if name.startswith("masks/"):
            assert np.array_equal(made.read(name), parent.read(name))
        elif name != "episodes/offset":
            want = np.concatenate([parent.read(name), other.read(name)])
            assert np.array_equal(made.read(name), want), name
    (step,) = manifest.lineage
    assert step.parents == (parent.id, other.id)
    recordings = step.model_dump()["arguments"]["recordings"]
    assert [recording["seed"] for recording in recordings] == [0, 1]
    assert manifest.name == "test/random"


def test_the_order_decides_the_id_and_nothing_else_does(parent, other, tmp_path):
    one = merge([parent.path, other.path], tmp_path / "1.zarr", name="a")
    two = merge([parent.path, other.path], tmp_path / "2.zarr", licence="MIT")
    assert one.id == two.id
    assert one.id != merge([other.path, parent.path], tmp_path / "3.zarr").id


def test_parts_of_one_dataset_make_it_again(parent, tmp_path):
    filter(parent.path, tmp_path / "a.zarr", "episode < 13")
    filter(parent.path, tmp_path / "b.zarr", "episode >= 13")
    merged = merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")
    assert merged.id == parent.id
    assert [step.operation for step in merged.lineage] == ["filter", "filter", "merge"]
    assert [step.result is None for step in merged.lineage] == [False, False, True]


def test_experts_are_numbered_anew(parent, tmp_path):
    strange = recorded(tmp_path / "o.zarr", parent.spec, expert={"digest": DIGEST})
    same = recorded(tmp_path / "s.zarr", parent.spec, expert={"reference": "elsewhere"}, seed=4)
    manifest = merge([parent.path, strange.path, same.path], tmp_path / "m.zarr")
    assert [(e.id, e.digest) for e in manifest.experts] == [
        (0, parent.manifest.experts[0].digest),
        (1, DIGEST),
    ]
    ids = ExpertBuffer.open(tmp_path / "m.zarr").episodes("expert_id")
    assert ids.tolist() == [0] * 40 + [1] * 2 + [0] * 2


def test_datasets_without_numbers_of_experts(tmp_path, parent):
    paths = []
    for seed, digest in ((2, None), (3, DIGEST)):
        block = episode_block(parent.spec, [3, 4], seed=seed, without=["episodes/expert_id"])
        path = tmp_path / f"{seed}.zarr"
        recorded(path, parent.spec, block=block, expert={"digest": digest}, seed=seed)
        paths.append(path)
    merge(paths, tmp_path / "m.zarr")
    assert ExpertBuffer.open(tmp_path / "m.zarr").episodes("expert_id").tolist() == [0, 0, 1, 1]
    recorded(tmp_path / "none.zarr", parent.spec, changes={"experts": ()}, seed=5)
    manifest = merge(
        [parent.path, tmp_path / "none.zarr"],
        tmp_path / "n.zarr",
        without=["logits", "embedding", "value", "final/value"],
    )
    assert [expert.kind for expert in manifest.experts] == ["random", "unknown"]
    assert verify(tmp_path / "n.zarr").ok


def test_splits_go_by_name(parent, other, tmp_path):
    split(parent.path, tmp_path / "a.zarr", parts={"train": 0.5, "val": 0.25, "test": 0.25})
    split(other.path, tmp_path / "b.zarr", parts={"train": 0.5, "test": 0.5})
    manifest = merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")
    assert {name: part.episodes for name, part in manifest.splits.items()} == {
        "train": 26,
        "heldout": 0,
        "val": 10,
        "test": 16,
    }
    assert verify(tmp_path / "m.zarr").ok


def test_the_same_episode_is_never_in_two_parts(parent, tmp_path):
    split(parent.path, tmp_path / "a.zarr", heldout=0.5, seed=1)
    split(parent.path, tmp_path / "b.zarr", heldout=0.5, seed=2)
    merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr", duplicates="keep")
    codes = ExpertBuffer.open(tmp_path / "m.zarr").episodes("split")
    assert np.array_equal(codes[:40], ExpertBuffer.open(tmp_path / "a.zarr").episodes("split"))
    assert np.array_equal(codes[40:], codes[:40])
    assert verify(tmp_path / "m.zarr").ok


def test_noise_is_counted(parent, tmp_path):
    block = episode_block(parent.spec, [3, 4], seed=2)
    block.episodes["noise_level"][1] = 0.1
    half = NoiseLevel(level=0.0, share=0.5), NoiseLevel(level=0.1, share=0.5)
    head = header(parent.spec)
    noisy = head.recording.model_copy(update={"noise": half, "noise_rule": "some"})
    recorded(tmp_path / "o.zarr", parent.spec, block=block, changes={"recording": noisy})
    manifest = merge([parent.path, tmp_path / "o.zarr"], tmp_path / "m.zarr")
    assert [(x.level, round(x.share * 42)) for x in manifest.recording.noise] == [(0, 41), (0.1, 1)]
    assert manifest.recording.noise_rule == "some"
    clean = filter(tmp_path / "m.zarr", tmp_path / "f.zarr", "noise_level == 0")
    assert clean.recording.noise == ()
    rest = filter(tmp_path / "m.zarr", tmp_path / "g.zarr", "noise_level == 0.1")
    assert rest.recording.noise == (NoiseLevel(level=0.1, share=1.0),)


def test_masks_of_every_episode_follow_each_other(parent, tmp_path):
    paths, masks = [], []
    for seed in (2, 3):
        drawn = np.random.default_rng(seed).random((2, 3, 6)) < 0.5
        head = {"full": full_mask(parent.spec), "drawn": drawn}
        recorded(tmp_path / f"{seed}.zarr", parent.spec, masks=head, seed=seed)
        paths.append(tmp_path / f"{seed}.zarr")
        masks.append(drawn)
    merge(paths, tmp_path / "m.zarr")
    made = ExpertBuffer.open(tmp_path / "m.zarr")
    assert np.array_equal(made.mask("drawn"), np.concatenate(masks))
    assert np.array_equal(made.mask("full"), full_mask(parent.spec))


@pytest.mark.parametrize("how", ["refuse", "drop", "keep"])
def test_duplicates(parent, tmp_path, how):
    filter(parent.path, tmp_path / "some.zarr", "episode in [3, 7, 39]")
    paths = [parent.path, tmp_path / "some.zarr"]
    if how == "refuse":
        with pytest.raises(MismatchError, match="3 episodes are there twice, such as episode 0 of"):
            merge(paths, tmp_path / "m.zarr")
        return
    manifest = merge(paths, tmp_path / "m.zarr", duplicates=how)
    assert manifest.statistics.episodes == (40 if how == "drop" else 43)
    assert manifest.lineage[-1].arguments["duplicates"] == how
    if how == "drop":
        assert manifest.id == parent.id
        assert manifest.lineage[-1].arguments["dropped_episodes"] == 3


def test_duplicates_without_seeds(parent, tmp_path):
    block = episode_block(parent.spec, [3, 4], seed=2)
    bare = {k: v for k, v in block.episodes.items() if k != "seed"}
    recorded(tmp_path / "a.zarr", parent.spec, block=EpisodeBlock(block.steps, block.final, bare))
    obs = block.steps["obs"].copy()
    obs[0, 0, 0] += 1  # in the first episode: the second is still the same
    steps = {**block.steps, "obs": obs}
    recorded(tmp_path / "b.zarr", parent.spec, block=EpisodeBlock(steps, block.final, bare))
    with pytest.raises(MismatchError, match="1 episodes are there twice, such as episode 1"):
        merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")


def test_the_same_seed_with_other_noise_is_no_duplicate(parent, tmp_path):
    block = episode_block(parent.spec, [3, 4], seed=2)
    levels = {**block.episodes, "noise_level": np.full(2, 0.5, np.float32)}
    recorded(tmp_path / "a.zarr", parent.spec, block=block)
    recorded(tmp_path / "b.zarr", parent.spec, block=EpisodeBlock(block.steps, block.final, levels))
    assert merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")


def test_seeds_are_compared_in_full(parent, tmp_path):
    """As float64 these two would be one number."""
    for name, seed in (("a", 2**62), ("b", 2**62 + 1)):
        block = episode_block(parent.spec, [3], seed=2)
        block.episodes["seed"][:] = seed
        recorded(tmp_path / f"{name}.zarr", parent.spec, block=block)
    assert merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")


def conflicting(kind, spec, path):
    """Record two episodes that conflict with the parent in one way."""
    blocks = {
        "lone": {"without": ["steps/value"]},
        "width": {"hidden": 5},
        "dtype": {"embedding_dtype": "float32"},
    }
    experts = {
        "outputs": {"capture": Capture(output="q_values", embedding="random numbers")},
        "layer": {"capture": Capture(embedding="the first layer")},
        "gamma": {"gamma": 0.5},
    }
    if kind == "environment":
        other = environment_spec((6, 3, 5), (5, 2, 4), episode_limit=30)
        return recorded(path, other.model_copy(update={"kwargs": {"local_ratio": 0.2}}))
    if kind == "mask":
        hidden = full_mask(spec).copy()
        hidden[0, 0] = False
        return recorded(path, spec, masks={"full": hidden})
    block = episode_block(spec, [3, 4], seed=2, **blocks.get(kind, {}))
    changes = {"licence": ""} if kind == "licence" else None
    return recorded(path, spec, block=block, expert=experts.get(kind), changes=changes)


@pytest.mark.parametrize(
    ("kind", "words", "cure"),
    [
        ("environment", ["another environment", "kwargs {}", "episode_limit 25 and 30"], None),
        ("lone", ["only some have steps/value", "--arrays common"], {"arrays": "common"}),
        ("width", ["steps/embedding is float16", "[3, 4]", "[3, 5]"], {"without": ["embedding"]}),
        ("dtype", ["float16 [3, 4]", "float32 [3, 4]"], {"without": ["steps/embedding"]}),
        ("mask", ["mask 'full'"], {"without": ["masks/full"]}),
        ("outputs", ["logits", "q_values", "no one meaning"], {"without": ["logits"]}),
        ("layer", ["layer of the embeddings", "the first layer"], {"without": ["embedding"]}),
        ("gamma", ["0.5", "0.99", "steps/value"], {"without": ["value", "final/value"]}),
        ("licence", ["'CC0-1.0' and none stated", "--licence"], {"licence": "MIT"}),
    ],
)
def test_conflicts_and_their_cures(parent, tmp_path, kind, words, cure):
    other = conflicting(kind, parent.spec, tmp_path / "o.zarr")
    paths = [parent.path, other.path]
    with pytest.raises(MismatchError) as caught:
        merge(paths, tmp_path / "m.zarr")
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "m.zarr").exists()
    if cure is not None:
        manifest = merge(paths, tmp_path / "m.zarr", **cure)
        assert manifest.statistics.episodes == 42
        assert verify(tmp_path / "m.zarr").ok


def test_every_reason_is_given_at_once(parent, tmp_path):
    block = episode_block(parent.spec, [3, 4], seed=2, hidden=5, without=["steps/value"])
    recorded(tmp_path / "o.zarr", parent.spec, block=block, changes={"licence": "MIT"})
    with pytest.raises(MismatchError) as caught:
        merge([parent.path, tmp_path / "o.zarr"], tmp_path / "m.zarr")
    for word in ("steps/value", "steps/embedding", "licences"):
        assert word in str(caught.value)


def test_appending_is_the_next_version(parent, other, tmp_path):
    manifest = append(parent.path, [other.path], tmp_path / "a.zarr")
    assert manifest.id == merge([parent.path, other.path], tmp_path / "m.zarr", name="x").id
    assert (manifest.name, manifest.version) == ("test/random", "1.1.0")
    assert manifest.lineage[-1].operation == "append"
    third = append(tmp_path / "a.zarr", [parent.path], tmp_path / "b.zarr", duplicates="drop")
    assert third.version == "1.2.0"
    assert third.id == manifest.id


def test_impossible_choices(parent, other, tmp_path):
    both = [parent.path, other.path]
    with pytest.raises(UsageError, match="at least two"):
        merge([parent.path], tmp_path / "m.zarr")
    with pytest.raises(UsageError, match="at least two"):
        append(parent.path, [], tmp_path / "m.zarr")
    with pytest.raises(UnknownNameError, match="did you mean 'common'"):
        merge(both, tmp_path / "m.zarr", arrays="commn")
    with pytest.raises(UnknownNameError, match="refuse, keep, drop"):
        merge(both, tmp_path / "m.zarr", duplicates="ask")
    with pytest.raises(UnknownNameError, match="steps/logits"):
        merge(both, tmp_path / "m.zarr", without=["logit"])
    with pytest.raises(UsageError, match="cannot be left out"):
        merge(both, tmp_path / "m.zarr", without=["obs"])
    with pytest.raises(UsageError, match="never changes in place"):
        merge(both, other.path, overwrite=True)
