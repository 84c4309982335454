"""Experts and noise of a dataset that was made of several."""

from kd_offline.datasets import (
    DatasetWriter,
    ExpertBuffer,
    filter,
    merge,
    verify,
)
from kd_offline.schemas.dataset import NoiseLevel
from kd_offline.testing.factories import (
    episode_block,
    full_mask,
    header,
)

DIGEST = "sha256:" + "1" * 64


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
    more = recorded(tmp_path / "more.zarr", parent.spec, expert={"digest": DIGEST}, seed=5)
    merge([more.path, tmp_path / "m.zarr"], tmp_path / "again.zarr")  # the second is many blocks
    ids = ExpertBuffer.open(tmp_path / "again.zarr").episodes("expert_id")
    assert ids.tolist() == [0] * 2 + [1] * 40 + [0] * 2 + [1] * 2


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
