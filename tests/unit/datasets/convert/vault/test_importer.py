"""Vaults of others: OG-MARL's names and quirks."""

import json

import numpy as np
import pytest

from kd_offline import ExpertBuffer, convert, verify
from kd_offline.datasets.convert import interchange
from kd_offline.errors import KdOfflineError
from kd_offline.testing.factories import environment_spec
from tests.unit.datasets.convert.vault.vaults import ACTIONS, AGENTS, leaves, write_vault


def imported(tmp_path, arrays, **options):
    write_vault(tmp_path / "toy.vlt" / "Good", arrays)
    done = convert(tmp_path / "toy.vlt" / "Good", tmp_path / "toy.zarr", **options)
    assert verify(done.path).problems == ()
    return done, ExpertBuffer.open(done.path)


def notes(done):
    return " | ".join(done.notes)


def test_a_plain_vault(tmp_path):
    arrays = leaves()
    done, buffer = imported(tmp_path, arrays)
    assert (done.source_kind, done.episodes, done.steps, done.not_held) == ("vault", 3, 30, ())
    assert "truncations are never true" in notes(done)
    for ours, theirs in {
        "obs": "observations",
        "actions": "actions",
        "reward": "rewards",
        "available_actions": "infos/legals",
        "state": "infos/state",
    }.items():
        assert np.array_equal(buffer.read(f"steps/{ours}"), arrays[theirs][0])
    assert np.array_equal(buffer.read("steps/terminated"), arrays["terminals"][0, :, 0])
    assert buffer.episodes("length").tolist() == [10, 10, 10]
    assert (buffer.spec.id, buffer.spec.state_width) == ("toy", 7)
    assert buffer.spec.blocks["agent_1"] == {"all": ((0, 4),)}
    (expert,) = buffer.manifest.experts
    assert (expert.kind, expert.digest) == ("unknown", None)
    (step,) = buffer.manifest.lineage
    assert (step.operation, step.arguments) == ("convert", {"from": "vault", "source": "Good"})


def test_the_same_vault_gives_the_same_dataset(tmp_path):
    first, _ = imported(tmp_path / "a", leaves())
    second, buffer = imported(tmp_path / "b", leaves())
    assert first.id == second.id
    assert buffer.manifest.lineage[0].parents[0].startswith("sha256:")


def test_streams_are_independent_and_ends_are_cut_off(tmp_path):
    arrays = leaves(streams=5, steps=34)
    done, buffer = imported(tmp_path, arrays)
    assert (done.episodes, done.steps) == (15, 150)
    assert "20 steps after the last end of an episode were left out" in notes(done)
    whole = arrays["observations"][:, :30].reshape(150, AGENTS, -1)
    assert np.array_equal(buffer.read("steps/obs"), whole)


def test_windows_do_not_matter(tmp_path, monkeypatch):
    done, _ = imported(tmp_path / "a", leaves(streams=2, steps=37))
    monkeypatch.setattr(interchange, "WINDOW_ROWS", 7)
    monkeypatch.setattr("kd_offline.datasets.convert.vault.store.WINDOW_ROWS", 7)
    monkeypatch.setattr(interchange.row_ranges, "__defaults__", (7,))
    monkeypatch.setattr(interchange.episode_ranges, "__defaults__", (7,))
    again, _ = imported(tmp_path / "b", leaves(streams=2, steps=37))
    assert done.id == again.id


def test_actions_with_an_axis_of_one(tmp_path):
    arrays = leaves()
    flat = arrays["actions"]
    arrays["actions"] = flat[..., None]
    _, buffer = imported(tmp_path, arrays)
    assert np.array_equal(buffer.read("steps/actions"), flat[0])


def test_without_legals_state_and_truncations(tmp_path):
    arrays = leaves()
    for name in ("infos/legals", "infos/state", "truncations"):
        del arrays[name]
    done, buffer = imported(tmp_path, arrays)
    assert "there are no legals" in notes(done)
    assert buffer.spec.action_count == arrays["actions"].max() + 1
    assert buffer.read("steps/available_actions").all()
    assert buffer.spec.state_is_obs


def test_padding_of_minus_infinity(tmp_path):
    arrays = leaves()
    arrays["observations"][:, :, 1, 2:] = -np.inf
    arrays["observations"][0, 5, 2, 0] = -np.inf
    done, buffer = imported(tmp_path, arrays)
    assert "61 observed values of -inf are padding: they became zeros" in notes(done)
    assert buffer.spec.obs_widths == (4, 2, 4)
    assert not buffer.read("steps/obs")[:, 1, 2:].any()


def test_truncations_end_episodes_too(tmp_path):
    arrays = leaves()
    arrays["terminals"][:, 9] = False
    arrays["truncations"][:, 9] = True
    done, buffer = imported(tmp_path, arrays)
    assert np.flatnonzero(buffer.read("steps/truncated")).tolist() == [9]
    assert np.flatnonzero(buffer.read("steps/terminated")).tolist() == [19, 29]
    assert "truncations" not in notes(done)


def test_agents_that_end_one_by_one(tmp_path):
    arrays = leaves()
    arrays["terminals"][:, 4, 0] = True
    done, _ = imported(tmp_path, arrays)
    assert done.episodes == 3
    assert "in 1 steps only some agents were done" in notes(done)


def test_illegal_actions_are_told(tmp_path):
    arrays = leaves()
    arrays["infos/legals"][0, 3, 1, arrays["actions"][0, 3, 1]] = False
    done, buffer = imported(tmp_path, arrays)
    (lost,) = done.not_held
    assert lost.array == "infos/legals"
    assert "1 executed actions were not legal" in lost.why
    assert buffer.read("steps/available_actions").all()
    with pytest.raises(KdOfflineError, match="leave out strict"):
        convert(tmp_path / "toy.vlt", tmp_path / "strict.zarr", strict=True)


def test_what_has_no_place_is_told(tmp_path):
    arrays = leaves()
    arrays["infos/messages"] = np.zeros((1, 30, 2), np.float32)
    arrays["observations"] = arrays["observations"].astype(np.float64)
    done, _ = imported(tmp_path, arrays)
    assert [item.array for item in done.not_held] == ["infos/messages", "observations"]


def test_states_of_each_agent_are_joined(tmp_path):
    arrays = leaves()
    arrays["infos/state"] = np.ones((1, 30, AGENTS, 7), np.float32)
    done, buffer = imported(tmp_path, arrays)
    assert buffer.spec.state_width == 7 * AGENTS
    assert "joined" in notes(done)


def test_an_environment_describes_it(tmp_path):
    spec = environment_spec((4, 4, 4), state_width=7)
    done, buffer = imported(tmp_path, leaves(), spec=spec, name="mine")
    assert (buffer.spec, buffer.manifest.name) == (spec, "mine")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    again = convert(tmp_path / "toy.vlt", tmp_path / "b.zarr", spec=tmp_path / "spec.json")
    assert again.id == done.id


def spoilt(name, values):
    return {**leaves(), name: values}


@pytest.mark.parametrize("name", ["infos/action_mask", "infos/avail_actions", "legal_actions"])
@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_legal_actions_under_other_names(tmp_path, name, dtype):
    arrays = leaves()
    legal = arrays.pop("infos/legals").astype(dtype)
    legal[0, 2, 1, (arrays["actions"][0, 2, 1] + 1) % ACTIONS] = 0
    done, buffer = imported(tmp_path, arrays | {name: legal})
    assert np.array_equal(buffer.read("steps/available_actions"), legal[0] == 1)
    assert done.not_held == ()
    assert not any("every action counts as legal" in note for note in done.notes)


@pytest.mark.parametrize("value", [2.0, -1.0, np.nan, -np.inf])
def test_legals_that_are_not_zeros_and_ones_are_refused(tmp_path, value):
    arrays = spoilt("infos/legals", np.full((1, 30, 3, ACTIONS), value, np.float32))
    write_vault(tmp_path / "x.vlt" / "Good", arrays)
    with pytest.raises(KdOfflineError, match="infos/legals hold"):
        convert(tmp_path / "x.vlt", tmp_path / "x.zarr")


def test_inverted_legals_are_refused(tmp_path):
    arrays = leaves()
    arrays["infos/legals"] = ~np.eye(ACTIONS, dtype=bool)[arrays["actions"]]
    write_vault(tmp_path / "x.vlt" / "Good", arrays)
    with pytest.raises(KdOfflineError, match="90 of 90 executed actions are illegal"):
        convert(tmp_path / "x.vlt", tmp_path / "x.zarr")


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_actions_of_other_types(tmp_path, dtype):
    arrays = leaves()
    whole = arrays["actions"]
    _, buffer = imported(tmp_path, arrays | {"actions": whole.astype(dtype)})
    assert np.array_equal(buffer.read("steps/actions"), whole[0])


def test_one_hot_actions(tmp_path):
    arrays = leaves()
    hot = np.eye(ACTIONS, dtype=np.float32)[arrays["actions"]]
    _, buffer = imported(tmp_path, arrays | {"actions": hot})
    assert np.array_equal(buffer.read("steps/actions"), arrays["actions"][0])


def test_an_end_that_is_both_stays_both(tmp_path):
    arrays = leaves()
    _, buffer = imported(tmp_path, arrays | {"truncations": arrays["terminals"].copy()})
    assert np.array_equal(buffer.read("steps/truncated"), buffer.read("steps/terminated"))


def test_a_promised_leaf_that_is_absent(tmp_path):
    folder = write_vault(tmp_path / "x.vlt" / "Good", leaves())
    document = json.loads((folder / "metadata.json").read_text())
    document["structure_dtype"]["infos"]["ghost"] = "float32"
    (folder / "metadata.json").write_text(json.dumps(document))
    with pytest.raises(KdOfflineError, match="leaf 'infos/ghost' cannot be opened"):
        convert(folder, tmp_path / "y.zarr")
