"""Shards of a recording, put together, are the undivided recording."""

import json

import numpy as np
import pytest

from kd_offline import seeding
from kd_offline.datasets import ExpertBuffer, annotate, filter, merge, verify
from kd_offline.datasets.sharing.share import push
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import CorruptDatasetError, MismatchError, StorageError, UsageError
from kd_offline.recording.record import record
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.sealed_json import seal, unseal

SPREAD = "mpe/simple_spread_v3"
ONE_EPOCH = {"method": "kl", "hidden": 4, "settings": {"optimisation.epochs": 1}}
SMALL = {"episodes": 33, "batch": 5, "threads": 1, "partner": None}

UNIFORM = "python:tests.unit.recording.test_shards:uniform"


def uniform(spec):
    """Return an expert that knows nothing, for environments without a bundled one."""
    return RandomPolicy()


def shards_of(environment, folder, count, numbers=None, **settings):
    """Record shards (all, or those of ``numbers``) and return their folders in that order."""
    chosen = range(1, count + 1) if numbers is None else numbers
    paths = {number: folder / f"shard-{number}.zarr" for number in chosen}
    for number, path in paths.items():
        record(environment, path, shard=f"{number}/{count}", **settings)
    return list(paths.values())


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """Return the undivided recording, and the folders of its three shards."""
    folder = tmp_path_factory.mktemp("shards")
    record(SPREAD, folder / "whole.zarr", **SMALL)
    return ExpertBuffer.open(folder / "whole.zarr"), shards_of(SPREAD, folder, 3, **SMALL)


def test_uneven_shares_make_the_id_of_the_undivided_recording(spread, tmp_path):
    whole, shards = spread
    assert [ExpertBuffer.open(path).n_episodes for path in shards] == [10, 10, 13]
    merged = merge(shards, tmp_path / "m.zarr")
    assert merged.id == whole.id
    assert verify(tmp_path / "m.zarr").ok
    assert merged.recording.episodes == 33
    made = merged.model_dump(exclude={"lineage", "recording", "files", "manifest_digest"})
    assert made == whole.manifest.model_dump(include=made.keys())


def test_every_shard_is_a_dataset_of_its_own_whose_splits_are_those_of_the_whole(spread):
    whole, shards = spread
    parts = [ExpertBuffer.open(path) for path in shards]
    assert all(verify(path).ok for path in shards)
    for name in ("split", "seed", "noise_level"):
        joined = np.concatenate([part.episodes(name) for part in parts])
        np.testing.assert_array_equal(joined, whole.episodes(name))
    assert len({part.id for part in parts} | {whole.id}) == 4


def test_the_order_in_which_shards_are_given_does_not_matter(spread, tmp_path):
    whole, shards = spread
    merged = merge(shards[::-1], tmp_path / "m.zarr")
    assert merged.id == whole.id
    (step,) = merged.lineage
    assert step.parents == tuple(ExpertBuffer.open(path).id for path in shards)


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        (SPREAD, {"partner": "bundled", "noise_mixture": "0:0.5,0.5:0.5"}),
        (SPREAD, {"noise_mixture": None, "masks": ("random-k", "full")}),
        ("mpe/simple_adversary_v3", {}),
        ("mpe/simple_speaker_listener_v4", {}),
        ("grid/predator_prey", {"expert": UNIFORM, "environment_kwargs": {"episode_limit": 20}}),
        (
            "pettingzoo/mpe2.simple_reference_v3:parallel_env",
            {"expert": UNIFORM, "environment_kwargs": {"episode_limit": 6}},
        ),
        pytest.param("smax/3m", {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_partners_noise_masks_and_environments(environment, settings, tmp_path):
    given = SMALL | {"episodes": 11, "batch": 3} | settings
    whole = record(environment, tmp_path / "whole.zarr", **given)
    shards = shards_of(environment, tmp_path, 2, **given)
    assert merge(shards, tmp_path / "m.zarr").id == whole.id


def test_a_partner_from_a_run_folder(spread, tmp_path):
    whole, _ = spread
    distill(whole, tmp_path / "run", distill_recipe(**ONE_EPOCH))
    given = SMALL | {"episodes": 10, "partner": tmp_path / "run", "partner_share": 1.0}
    one = record(SPREAD, tmp_path / "whole.zarr", **given)
    assert merge(shards_of(SPREAD, tmp_path, 2, **given), tmp_path / "m.zarr").id == one.id


def test_episodes_that_a_recording_has_twice_stay_in_its_shards(tmp_path, monkeypatch):
    """Seeds are below 2**31, so a large recording has some episodes twice."""
    drawn = seeding.episode_seeds

    def few(seed, first, count, *purpose):
        return drawn(seed, 0, 33, *purpose)[np.arange(first, first + count) % 4]

    monkeypatch.setattr("kd_offline.recording.setup.episode_seeds", few)
    monkeypatch.setattr("kd_offline.datasets.edit.shards.episode_seeds", few)
    whole = record(SPREAD, tmp_path / "whole.zarr", **SMALL)
    shards = shards_of(SPREAD, tmp_path, 3, **SMALL)
    assert merge(shards, tmp_path / "m.zarr").id == whole.id


def test_missing_and_doubled_shards_are_named(spread, tmp_path):
    _, shards = spread
    out = tmp_path / "m.zarr"
    with pytest.raises(MismatchError, match="shard 2 of 3 is missing; record what is missing"):
        merge([shards[0], shards[2]], out)
    with pytest.raises(MismatchError, match="shard 2 to 3 of 3 are missing"):
        merge([shards[0]], out)
    (again,) = shards_of(SPREAD, tmp_path, 3, [2], **SMALL)
    with pytest.raises(MismatchError, match=r"shard 2 of 3 is there more than once \('.*' and"):
        merge([*shards, again], out)
    with pytest.raises(MismatchError, match=r"shard 3 of 3 is missing; shard 2 of 3 is there more"):
        merge([*shards[:2], again], out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, r"recording\.seed"),
        ({"noise_mixture": None}, r"recording\.noise"),
        ({"expert": "bundled:mlp"}, "experts"),
        ({"episodes": 34}, "episodes"),
        ({"environment_kwargs": {"local_ratio": 0.25}}, "environment"),
    ],
    ids=str,
)
def test_shards_of_different_recordings_are_refused(spread, tmp_path, change, named):
    _, shards = spread
    (other,) = shards_of(SPREAD, tmp_path, 3, [3], **SMALL | change)
    with pytest.raises(MismatchError, match=f"shards of different recordings.*{named}"):
        merge([*shards[:2], other], tmp_path / "m.zarr")


def test_shards_whose_episodes_were_chosen_are_ordinary_datasets(spread, tmp_path):
    _, shards = spread
    filter(shards[0], tmp_path / "some.zarr", "episode < 4")
    merged = merge([tmp_path / "some.zarr", shards[2]], tmp_path / "m.zarr")
    assert merged.statistics.episodes == 4 + 13


def test_annotated_shards_and_parts_of_shards_still_make_the_whole(spread, tmp_path):
    whole, shards = spread
    noted = [tmp_path / f"{k}.zarr" for k in range(3)]
    for source, target in zip(shards, noted, strict=True):
        annotate(source, target, licence="MIT")
    assert merge(noted, tmp_path / "m.zarr").id == whole.id


def test_more_shards_than_batches_are_refused_with_the_largest_batch_that_works(tmp_path):
    with pytest.raises(UsageError, match=r"into 8 shards.*there are 7: give every shard batch=4"):
        record(SPREAD, tmp_path / "s.zarr", shard="1/8", **SMALL)
    assert not (tmp_path / "s.zarr").exists()
    record(SPREAD, tmp_path / "s.zarr", shard="8/8", **SMALL | {"batch": 4})
    with pytest.raises(UsageError, match=r"into 34 shards.*divide it into 7 or fewer"):
        record(SPREAD, tmp_path / "t.zarr", shard="1/34", **SMALL)


@pytest.mark.parametrize("place", ["0/3", "4/3", "3", "1/0", "-1/3", "1/3/5", "a/b", "1/ 3", "٣/٣"])
def test_a_place_that_there_is_not_is_refused(place, tmp_path):
    with pytest.raises(UsageError, match=r"shard.*NUMBER/COUNT.*such as 3/64"):
        record(SPREAD, tmp_path / "s.zarr", shard=place, **SMALL)


def test_a_shard_is_resumed_and_another_one_is_not_recorded_over_it(spread, tmp_path):
    _, shards = spread
    path = tmp_path / "s.zarr"
    one = record(SPREAD, path, shard="1/3", **SMALL)
    assert record(SPREAD, path, shard="1/3", resume=True, **SMALL).id == one.id
    assert one.id == ExpertBuffer.open(shards[0]).id
    with pytest.raises(MismatchError, match=r"begun with other settings \(shard\)"):
        record(SPREAD, path, shard="2/3", resume=True, **SMALL)


def rewritten(path, target, **arguments):
    """Copy a shard whose manifest states another place."""
    push(path, target)
    manifest = target / "manifest.json"
    document = unseal(manifest.read_bytes())
    document["lineage"][0]["arguments"] |= arguments
    document.pop("manifest_digest", None)
    manifest.write_bytes(seal(document))
    return target


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shard": "9/3"}, CorruptDatasetError, "impossible place"),
        ({"shard": ["2/3"]}, CorruptDatasetError, "impossible place"),
        ({"first_episode": -10}, CorruptDatasetError, "impossible place"),
        ({"first_episode": True}, CorruptDatasetError, "impossible place"),
        ({"whole": 15}, CorruptDatasetError, "impossible place"),
        ({"shard": "3/3"}, MismatchError, "shard 2 of 3 is missing; shard 3 of 3 is there more"),
        ({"first_episode": 11}, MismatchError, "does not hold the episodes of shard 2/3"),
    ],
    ids=str,
)
def test_a_shard_that_states_another_place_is_refused(spread, tmp_path, arguments, error, message):
    _, shards = spread
    forged = rewritten(shards[1], tmp_path / "forged.zarr", **arguments)
    with pytest.raises(error, match=message):
        merge([shards[0], forged, shards[2]], tmp_path / "m.zarr")


def test_exchanged_episodes_are_found(spread, tmp_path):
    """Two shards of one size that state each other's places."""
    _, shards = spread
    swapped = [
        rewritten(shards[0], tmp_path / "a.zarr", shard="2/3", first_episode=10),
        rewritten(shards[1], tmp_path / "b.zarr", shard="1/3", first_episode=0),
    ]
    with pytest.raises(MismatchError, match="does not hold the episodes of shard 1/3"):
        merge([*swapped, shards[2]], tmp_path / "m.zarr")


def test_the_card_of_a_shard_names_its_place(spread):
    from kd_offline.datasets.metadata.cards import card, commands

    _, shards = spread
    buffer = ExpertBuffer.open(shards[1])
    assert "--episodes 33 --seed 0 --shard 2/3" in commands(buffer.manifest)[0]
    assert "record of shard 2/3" in card(shards[1])
    assert json.dumps(buffer.manifest.lineage[0].model_dump(mode="json"))


@pytest.mark.parametrize("how", [{"on": "serial"}, {"expert": ("bundled", "bundled:large")}])
def test_a_place_that_takes_no_dataset_is_refused_before_anything_is_recorded(tmp_path, how):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    for name, error, reason in (
        ("thesis", StorageError, "holds no dataset"),
        ("file", StorageError, "is a file"),
        ("d.zip", UsageError, "give a folder, and push or pack it"),
    ):
        with pytest.raises(error, match=reason):
            record(SPREAD, tmp_path / name, overwrite=True, **SMALL, **how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_a_recording_of_several_experts_that_replaces_another_one_is_continued(
    tmp_path, monkeypatch
):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    path, other = tmp_path / "d.zarr", SMALL | {"seed": 7}
    experts = {"expert": ("bundled", "bundled:large")}
    record(SPREAD, path, **SMALL)
    with monkeypatch.context() as patched:
        patched.setattr("kd_offline.recording.record.merge", stopped)
        with pytest.raises(KeyboardInterrupt):
            record(SPREAD, path, overwrite=True, **other, **experts)
    assert record(SPREAD, path, resume=True, **other, **experts).recording.seed == 7
    assert [found.name for found in tmp_path.iterdir()] == ["d.zarr"]
