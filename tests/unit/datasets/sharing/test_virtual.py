"""A dataset that lists others reads as the one that merging them gives."""

import json
import pickle
import shutil
import time

import numpy as np
import pytest

from kd_offline.datasets import (
    ExpertBuffer,
    Loader,
    annotate,
    filter,
    inspect,
    merge,
    verify,
    virtual_merge,
)
from kd_offline.datasets.reading import shards as module
from kd_offline.datasets.sharing.share import pack, pull, push
from kd_offline.datasets.storage.shard_addresses import ALLOWED
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import (
    CorruptDatasetError,
    MismatchError,
    StorageError,
    UsageError,
)
from kd_offline.recording.record import record
from kd_offline.sealed_json import seal, unseal
from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests.servers import NGINX, nginx

SPREAD = "mpe/simple_spread_v3"
SPEC = environment_spec((6, 3, 5), (5, 2, 4))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with three shards, their virtual and their real merge."""
    folder = tmp_path_factory.mktemp("virtual")
    for k in range(3):
        tiny_dataset(folder / f"shards/{k}.zarr", 12 + k, spec=SPEC, seed=k)
    shards = [folder / f"shards/{k}.zarr" for k in range(3)]
    merge(shards, folder / "real.zarr")
    virtual_merge(shards, folder / "whole.zarr")
    return folder


@pytest.fixture
def own(made, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(made, tmp_path / "own")


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of the whole hold several shards' rows, or less than one shard's."""
    monkeypatch.setattr("kd_offline.datasets.format.layout.MIN_CHUNK_ROWS", 16)
    monkeypatch.setattr("kd_offline.datasets.format.layout.MAX_CHUNK_ROWS", 16)


def altered(folder, change):
    """Change the manifest of a dataset and seal it again."""
    place = folder / "manifest.json"
    document = unseal(place.read_bytes())
    del document["manifest_digest"]
    change(document)
    place.write_bytes(seal(document))
    return folder


def test_it_has_the_id_of_the_merge_and_copies_no_steps(made):
    whole, real = ExpertBuffer.open(made / "whole.zarr"), ExpertBuffer.open(made / "real.zarr")
    assert whole.id == real.id
    assert {path.name for path in (made / "whole.zarr").iterdir()} == {
        *("manifest.json", "zarr.json", "episodes", "masks")
    }
    kept = {"format_version", "files", "shards", "manifest_digest"}
    assert whole.manifest.model_dump(exclude=kept) == real.manifest.model_dump(exclude=kept)
    assert (whole.manifest.format_version, real.manifest.format_version) == ((1, 4), (1, 3))
    assert [shard.address for shard in whole.manifest.shards] == [
        f"shards/{k}.zarr" for k in range(3)
    ]


@pytest.mark.parametrize("most_open", [1, 256])
def test_every_array_reads_as_in_the_merge(made, small_chunks, most_open, monkeypatch):
    monkeypatch.setattr(module, "MOST_OPEN", most_open)
    whole, real = ExpertBuffer.open(made / "whole.zarr"), ExpertBuffer.open(made / "real.zarr")
    names, chosen = real.names, np.array([38, 2, 20, 2])
    assert whole.names == names
    for episodes in (None, chosen):
        ours, theirs = whole.load(names, episodes), real.load(names, episodes)
        for name in names:
            np.testing.assert_array_equal(ours[name], theirs[name])
    for start, stop in ((0, 0), (5, 6), (10, whole.n_steps), (40, 41)):
        a, b = (buffer.read("steps/obs", start, stop) for buffer in (whole, real))
        np.testing.assert_array_equal(a, b)
    rows = np.array([70, 3, 3, 45])
    a, b = (buffer.array("steps/reward").gather(rows) for buffer in (whole, real))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.to_zarr()["steps/logits"][:], real.read("steps/logits"))


def test_it_is_taken_along_to_other_processes(made):
    whole = ExpertBuffer.open(made / "whole.zarr")
    rewards = whole.read("steps/reward")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(whole)).read("steps/reward"), rewards)


def test_loaders_give_the_same_batches_in_memory_and_streamed(made, small_chunks, tmp_path):
    merge([made / f"shards/{k}.zarr" for k in range(3)], tmp_path / "real.zarr")
    for budget in (None, 0.05):
        loaders = [
            Loader.open(path, ["steps/obs", "steps/logits"], batch=4, seed=3, memory_mb=budget)
            for path in (made / "whole.zarr", tmp_path / "real.zarr")
        ]
        assert loaders[0].streams == (budget is not None)
        for a, b in zip(*(loader.batches(epochs=1) for loader in loaders), strict=True):
            for name in ("steps/obs", "steps/logits"):
                np.testing.assert_array_equal(a.arrays[name], b.arrays[name])


def test_a_distillation_of_it_is_that_of_the_merge(made, tmp_path):
    recipe = distill_recipe(method="kl", hidden=4, settings={"optimisation.epochs": 1})
    for name in ("whole", "real"):
        distill(made / f"{name}.zarr", tmp_path / name, recipe)
    ours, theirs = (
        [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.safetensors"))]
        for name in ("whole", "real")
    )
    assert ours == theirs != []


def test_shards_of_a_recording_are_listed_in_their_order_with_the_id_of_the_whole(tmp_path):
    settings = {"episodes": 7, "batch": 2, "threads": 1, "partner": None}
    undivided = record(SPREAD, tmp_path / "undivided.zarr", **settings)
    paths = [tmp_path / f"{k}.zarr" for k in (2, 1)]
    for k, path in zip((2, 1), paths, strict=True):
        record(SPREAD, path, shard=f"{k}/2", **settings)
    manifest = virtual_merge(paths, tmp_path / "whole.zarr")
    assert manifest.id == undivided.id
    assert [shard.address for shard in manifest.shards] == ["1.zarr", "2.zarr"]
    with pytest.raises(MismatchError, match="shard 2 of 2 is missing"):
        virtual_merge(paths[1:], tmp_path / "half.zarr")
    assert not (tmp_path / "half.zarr").exists()


def test_it_is_verified_and_inspected_like_any_other(made):
    assert verify(made / "whole.zarr").ok
    assert verify(made / "whole.zarr", quick=True).ok
    whole, real = inspect(made / "whole.zarr"), inspect(made / "real.zarr")
    assert whole.arrays == real.arrays
    assert whole.bytes > sum(
        ExpertBuffer.open(made / f"shards/{k}.zarr").manifest.size_bytes for k in range(3)
    )


def test_merging_it_alone_makes_one_folder_of_it(made, tmp_path):
    manifest = merge([made / "whole.zarr"], tmp_path / "one.zarr")
    real = ExpertBuffer.open(made / "real.zarr").manifest
    assert (manifest.id, manifest.lineage, manifest.files) == (real.id, real.lineage, real.files)


def test_a_dataset_of_it_is_made_of_chosen_episodes(made, tmp_path):
    ours = filter(made / "whole.zarr", tmp_path / "a.zarr", "episode > 10 and episode < 30")
    theirs = filter(made / "real.zarr", tmp_path / "b.zarr", "episode > 10 and episode < 30")
    assert ours.id == theirs.id


def test_the_folder_can_be_moved_as_a_whole(own):
    moved = own.rename(own.with_name("moved"))
    assert verify(moved / "whole.zarr").ok


def test_shards_may_be_archives(made, tmp_path):
    for k in range(3):
        pack(made / f"shards/{k}.zarr", tmp_path / f"{k}.zarr.zip")
    manifest = virtual_merge([tmp_path / f"{k}.zarr.zip" for k in range(3)], tmp_path / "w.zarr")
    assert manifest.id == ExpertBuffer.open(made / "real.zarr").id
    assert verify(tmp_path / "w.zarr").ok


def test_shards_of_shards_are_read_up_to_three_levels(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made, tmp_path / "deep")
    tiny_dataset(folder / "more.zarr", 5, spec=SPEC, seed=9)
    below = "whole.zarr"
    for level in range(1, 4):
        paths = [folder / below, folder / "more.zarr"]
        below = f"level{level}.zarr"
        if level < 3:
            virtual_merge(paths, folder / below, duplicates="keep")
    whole = ExpertBuffer.open(folder / "level2.zarr")
    assert whole.read("steps/obs").shape[0] == whole.n_steps
    with pytest.raises(UsageError, match=r"nobody would read more than 3 levels: merge with"):
        virtual_merge(paths, folder / below, duplicates="keep")
    monkeypatch.setattr("kd_offline.datasets.sharing.virtual.MOST_NESTED", 4)
    virtual_merge(paths, folder / below, duplicates="keep")
    deepest = ExpertBuffer.open(folder / below)
    with pytest.raises(CorruptDatasetError, match="deeper than 3 levels"):
        deepest.read("steps/obs")


def test_opening_reads_no_shard(own):
    shutil.rmtree(own / "shards")
    whole = ExpertBuffer.open(own / "whole.zarr")
    assert (whole.n_episodes, whole.episodes("return").shape) == (39, (39,))
    with pytest.raises(CorruptDatasetError, match=r"shard 1 of .* no dataset is there"):
        whole.read("steps/obs")


def test_thousands_of_shards_open_at_once(tmp_path):
    count = 4096
    for k in range(2):
        tiny_dataset(tmp_path / f"{k}.zarr", lengths=[1] * (count // 2), seed=k)
    virtual_merge([tmp_path / f"{k}.zarr" for k in range(2)], tmp_path / "whole.zarr")

    def divide(manifest):
        first = manifest["shards"][0] | {"episodes": 1, "steps": 1}
        manifest["shards"] = [first | {"address": f"shards/{k}.zarr"} for k in range(count)]

    altered(tmp_path / "whole.zarr", divide)
    began = time.process_time()
    whole = ExpertBuffer.open(tmp_path / "whole.zarr")
    assert time.process_time() - began < 2
    assert len(whole.manifest.shards) == count
    with pytest.raises(CorruptDatasetError, match=rf"shard {count} of .*shards/4095.zarr"):
        whole.read("steps/obs", count - 1)


def test_another_dataset_in_the_place_of_a_shard_is_refused(own):
    shutil.rmtree(own / "shards/1.zarr")
    shutil.copytree(own / "shards/2.zarr", own / "shards/1.zarr")
    whole = ExpertBuffer.open(own / "whole.zarr")
    whole.read("steps/obs", 0, 1)
    with pytest.raises(CorruptDatasetError, match=r"shard 2 of .* has the id .* instead of"):
        whole.read("steps/obs")
    (problem,) = verify(own / "whole.zarr", quick=True).problems
    assert problem.where == "shard 2 (shards/1.zarr)"


def test_a_shard_with_the_same_id_and_another_manifest_is_refused(own):
    """The id does not cover the file table, by which chunks are checked."""
    annotate(own / "shards/0.zarr", own / "again.zarr", description="changed")
    shutil.rmtree(own / "shards/0.zarr")
    (own / "again.zarr").rename(own / "shards/0.zarr")
    with pytest.raises(CorruptDatasetError, match="its manifest was changed"):
        ExpertBuffer.open(own / "whole.zarr").read("steps/obs")


def test_damage_in_a_shard_is_found_and_named(own):
    chunk = own / "shards/1.zarr/steps/logits/c/0/0/0"
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(CorruptDatasetError, match=r"steps/logits rows .*shards/1.zarr"):
        ExpertBuffer.open(own / "whole.zarr").load(["steps/logits"])
    for quick in (True, False):
        problems = verify(own / "whole.zarr", quick=quick).problems
        assert any("logits" in p.where and "does not match" in p.what for p in problems)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["shards"][0].update(steps=1), "its shards hold"),
        (lambda m: m["shards"].pop(), "its shards hold"),
        (lambda m: m.update(format_version=[1, 3]), "says format 1.3, but lists shards"),
        (
            lambda m: m["files"].append({"path": "steps/zarr.json", "size": 1, "sha256": "0" * 64}),
            "also steps/zarr.json",
        ),
        (lambda m: m["shards"][0].update(address=""), "address"),
    ],
    ids=["counts", "missing", "version", "held twice", "no address"],
)
def test_tables_of_shards_that_contradict_the_rest_are_refused(own, change, reason):
    altered(own / "whole.zarr", change)
    with pytest.raises(CorruptDatasetError, match=reason):
        ExpertBuffer.open(own / "whole.zarr")


def test_a_stated_size_that_the_shard_does_not_have_is_refused(own):
    altered(own / "whole.zarr", lambda m: m["shards"][0].update(bytes=10**15))
    with pytest.raises(CorruptDatasetError, match="has another size than is listed"):
        ExpertBuffer.open(own / "whole.zarr").read("steps/obs")


def test_shards_elsewhere_need_the_permission_of_the_reader(made, tmp_path, monkeypatch):
    shards = [made / f"shards/{k}.zarr" for k in range(3)]
    virtual_merge(shards, tmp_path / "far.zarr")
    whole = ExpertBuffer.open(tmp_path / "far.zarr")
    with pytest.raises(UsageError, match=f"may not choose .* set {ALLOWED}"):
        whole.read("steps/obs")
    monkeypatch.setenv(ALLOWED, str(made))
    assert verify(tmp_path / "far.zarr").ok


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_it_is_read_from_a_web_server(made, tmp_path):
    with nginx(tmp_path) as server:
        shutil.copytree(made, server.www / "data")
        whole = ExpertBuffer.open(f"{server.url}/data/whole.zarr")
        assert server.fetched()
        assert not any("shards" in path for path in server.fetched())
        real = ExpertBuffer.open(made / "real.zarr")
        np.testing.assert_array_equal(whole.read("steps/obs"), real.read("steps/obs"))
        assert verify(f"{server.url}/data/whole.zarr").ok


def test_files_of_it_are_not_copied_alone(made, tmp_path):
    for copy in (
        lambda: push(made / "whole.zarr", tmp_path / "a.zarr"),
        lambda: pull(made / "whole.zarr", tmp_path / "a.zarr"),
        lambda: pack(made / "whole.zarr", tmp_path / "a.zip"),
        lambda: annotate(made / "whole.zarr", tmp_path / "a.zarr", description="x"),
    ):
        with pytest.raises(UsageError, match=r"lists 3 shards .* make one dataset of it first"):
            copy()
    assert not list(tmp_path.iterdir())


def test_only_whole_datasets_can_be_listed(made, tmp_path):
    filter(made / "shards/0.zarr", tmp_path / "some.zarr", "episode > 5")
    twice = [tmp_path / "some.zarr", made / "shards/0.zarr"]
    with pytest.raises(UsageError, match="can only be listed as a whole"):
        virtual_merge(twice, made / "twice.zarr", duplicates="drop")
    with pytest.raises(UsageError, match="where its parent"):
        virtual_merge(twice, made / "shards/0.zarr/in", duplicates="keep")
    assert not (made / "twice.zarr").exists()


def test_what_is_there_is_not_replaced_without_being_asked(own):
    before = json.loads((own / "whole.zarr/manifest.json").read_text())
    shards = [own / f"shards/{k}.zarr" for k in range(2)]
    (own / "whole.zip").touch()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kd_offline.datasets.sharing.virtual.write_plan", None)  # nothing is read
        with pytest.raises(StorageError, match="there is another dataset"):
            virtual_merge(shards, own / "whole.zarr")
        with pytest.raises(StorageError, match="already exists"):
            virtual_merge(shards, own / "whole.zip")
    assert json.loads((own / "whole.zarr/manifest.json").read_text()) == before
    virtual_merge(shards, own / "whole.zarr", overwrite=True)
    assert len(ExpertBuffer.open(own / "whole.zarr").manifest.shards) == 2
    assert verify(own / "whole.zarr").ok
