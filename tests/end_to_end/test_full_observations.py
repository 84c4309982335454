"""Full observations from the environment into a dataset, and through what is done to it."""

import json

import numpy as np
import pytest

from kd_offline import ExpertBuffer, inspect, verify
from kd_offline.datasets import DatasetWriter
from kd_offline.datasets.convert.convert import convert
from kd_offline.datasets.edit.annotate import annotate
from kd_offline.datasets.edit.filter import filter as filter_dataset
from kd_offline.datasets.edit.merge import merge
from kd_offline.datasets.loading.loader import Loader
from kd_offline.datasets.metadata.croissant import describe
from kd_offline.environments.grid import predator_prey
from kd_offline.environments.stepping import full_spec
from kd_offline.errors import MismatchError, MissingArrayError
from kd_offline.experts import checkpoint
from kd_offline.experts.card import ExpertCard
from kd_offline.recording.record import record
from kd_offline.recording.relabel import relabel
from kd_offline.recording.replay import replay
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe
from kd_offline.students.file import STUDENTS, read_students
from kd_offline.testing.factories import environment_spec, episode_block, header
from kd_offline.tracking.base import FunctionObserver
from tests.end_to_end.conftest import kd, kd_json, refused

BOARD = {"size": 4, "n_predators": 2, "n_prey": 2, "view": 3, "episode_limit": 8}
SMALL = ExpertArchitecture(trunk=(4,), gru=4, critic="none", last_action=True)
FULL = 3 * 7 * 7 + 2
PLAIN = {"episodes": 6, "batch": 4, "threads": 1, "partner": "none", "environment_kwargs": BOARD}


def saved(folder, spec):
    """Save an untrained expert of the board, whose spec says what it acts by."""
    recipe = TrainRecipe(environment=spec.id, algorithm="vdn", architecture=SMALL)
    card = ExpertCard(
        environment=spec,
        recipe=recipe,
        agents=spec.agents,
        parameters={"actor": 1},
        frames=1,
        seconds=0.0,
        threads=1,
        finished=True,
    )
    team = checkpoint.build(card)
    card = card.model_copy(update={"parameters": team.parameter_counts()})
    checkpoint.save(folder, card, team, {}, {})
    return str(folder)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """An expert, and datasets of it with and without full observations."""
    folder = tmp_path_factory.mktemp("full")
    expert = saved(folder / "expert", predator_prey.load(**BOARD).spec)
    given = PLAIN | {"expert": expert}
    record("grid/predator_prey", folder / "plain.zarr", **given)
    record("grid/predator_prey", folder / "full.zarr", full_observations=True, **given)
    return folder


@pytest.fixture
def full(places):
    return ExpertBuffer.open(places / "full.zarr")


def test_a_recording_holds_them_and_describes_them_and_is_else_the_same(places, full):
    plain = ExpertBuffer.open(places / "plain.zarr")
    assert set(full.names) - set(plain.names) == {"steps/obs_full", "final/obs_full"}
    assert (full.spec.full, plain.spec.full) == (predator_prey.load(**BOARD).full, None)
    assert full.spec.model_copy(update={"full": None}) == plain.spec
    for name in plain.names:
        np.testing.assert_array_equal(full.read(name), plain.read(name))
    values = full.read("steps/obs_full").reshape(-1, 2, FULL)
    window = values[..., :-2].reshape(-1, 2, 3, 7, 7)[..., 2:5, 2:5].reshape(-1, 2, 27)
    np.testing.assert_array_equal(window, full.read("steps/obs")[..., :27])
    assert verify(full.where).ok


def test_an_interrupted_recording_continues_to_the_same_bits(places, tmp_path, full):
    def stop(done, total, unit):
        if done >= 4:
            raise KeyboardInterrupt

    given = PLAIN | {"expert": str(places / "expert"), "full_observations": True}
    with pytest.raises(KeyboardInterrupt):
        record(
            *("grid/predator_prey", tmp_path / "d"),
            observers=[FunctionObserver(progress=stop)],
            **given,
        )
    with pytest.raises(MismatchError, match="begun with other settings"):
        record(
            "grid/predator_prey",
            tmp_path / "d",
            resume=True,
            **given | {"full_observations": False},
        )
    assert record("grid/predator_prey", tmp_path / "d", resume=True, **given).id == full.id


def test_an_expert_that_acts_by_them_records_them(places, tmp_path):
    spec = full_spec(predator_prey.load(**BOARD))
    sighted = saved(tmp_path / "sighted", spec)
    record("grid/predator_prey", tmp_path / "d.zarr", expert=sighted, **PLAIN)
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    assert buffer.has("steps/obs_full")
    report = relabel(buffer, 6, experts=[sighted])
    assert report.ok
    plain = places / "plain.zarr"
    with pytest.raises(MissingArrayError, match="acts by full observations, and the dataset at"):
        relabel(plain, 6, experts=[sighted])
    said = refused("verify", plain, "--relabel", "6", "--expert", sighted, code=2)
    assert "record with kd-offline record --full-observations" in said
    filter_dataset(
        tmp_path / "d.zarr", tmp_path / "e.zarr", "length < 9", without=["final/obs_full"]
    )
    assert relabel(tmp_path / "e.zarr", 6, experts=[sighted]).ok


def test_an_expert_of_another_board_is_refused_before_anything_is_begun(tmp_path):
    sighted = saved(tmp_path / "sighted", full_spec(predator_prey.load(**BOARD)))
    larger = PLAIN | {"environment_kwargs": BOARD | {"size": 5}}
    with pytest.raises(
        MismatchError, match=r"widths \[149, 149\], the environment's are \[245, 245"
    ):
        record("grid/predator_prey", tmp_path / "d.zarr", expert=sighted, **larger)
    assert not (tmp_path / "d.zarr").exists()


def test_episodes_played_again_have_the_same_full_observations(full, tmp_path):
    report = replay(full, 6)
    assert report.ok
    assert report.exact
    assert {"steps/obs_full", "final/obs_full"} <= set(report.arrays)


def test_a_replay_that_differs_names_the_block(places, full, monkeypatch):
    shown = predator_prey.PredatorPrey.full_observations

    def blind(self):
        values = shown(self)
        values[..., 49:98] = 0.0  # the prey
        return values

    monkeypatch.setattr(predator_prey.PredatorPrey, "full_observations", blind)
    first = replay(full, 6).first
    assert first is not None
    assert (first.array, first.entry.split()[0]) == ("steps/obs_full", "prey")


def test_where_nothing_is_hidden_they_are_refused(tmp_path):
    wide = BOARD | {"view": 7}
    spec = predator_prey.load(**wide).spec
    given = PLAIN | {"environment_kwargs": wide, "expert": saved(tmp_path / "expert", spec)}
    with pytest.raises(MismatchError, match="gives no full observations: it hides nothing"):
        record("grid/predator_prey", tmp_path / "d.zarr", full_observations=True, **given)
    assert not (tmp_path / "d.zarr").exists()


def test_a_dataset_without_them_names_the_command_that_records_them(places):
    with pytest.raises(MissingArrayError, match=r"record it with record\(full_observations=True\)"):
        ExpertBuffer.open(places / "plain.zarr").read("steps/obs_full")


def test_students_know_nothing_of_them(places, tmp_path):
    run = tmp_path / "run"
    kd(
        *("distill", places / "full.zarr", "-o", run, "--mask", "full", "--hidden", "4"),
        *("--epochs", "1", "--threads", "1", "--policy-term", "none", "-q"),
        *("--method", "q"),
    )
    card = read_students(run / STUDENTS).card
    assert card.environment == predator_prey.load(**BOARD).spec
    kd("export", run, "--to", "onnx", "-o", tmp_path / "e")


def test_editing_keeps_them_or_leaves_them_out_with_their_description(places, full, tmp_path):
    kept = filter_dataset(places / "full.zarr", tmp_path / "kept.zarr", "length > 0")
    assert kept.environment == full.spec
    gone = filter_dataset(
        *(places / "full.zarr", tmp_path / "gone.zarr", "length > 0"),
        without=["obs_full", "final/obs_full"],
    )
    assert gone.environment.full is None
    annotated = annotate(places / "full.zarr", tmp_path / "a.zarr", name="other")
    assert annotated.environment == full.spec
    for name in ("kept", "gone", "a"):
        assert verify(tmp_path / f"{name}.zarr").ok


def test_merging_needs_them_in_all_or_leaves_them_out(places, tmp_path):
    both = [places / "full.zarr", places / "plain.zarr"]
    options = {"duplicates": "keep"}
    for datasets in (both, both[::-1]):
        with pytest.raises(MismatchError, match="only some have final/obs_full, steps/obs_full"):
            merge(datasets, tmp_path / "m.zarr", **options)
        merged = merge(datasets, tmp_path / "m.zarr", arrays="common", overwrite=True, **options)
        assert merged.environment.full is None
    twice = merge([both[0], both[0]], tmp_path / "t.zarr", **options)
    assert twice.environment.full is not None
    assert twice.arrays["steps/obs_full"].shape[-1] == FULL
    assert verify(tmp_path / "t.zarr").ok


@pytest.mark.parametrize(
    ("kind", "name"), [("hdf5", "d.h5"), ("minari", "board-v0"), ("vault", "d.vlt")]
)
def test_they_survive_other_formats(places, full, tmp_path, kind, name):
    pytest.importorskip({"hdf5": "h5py", "minari": "h5py", "vault": "flashbax"}[kind])
    convert(full.where, tmp_path / name, to=kind)
    convert(tmp_path / name, tmp_path / "back.zarr", source_format=kind)
    back = ExpertBuffer.open(tmp_path / "back.zarr")
    assert back.id == full.id
    np.testing.assert_array_equal(back.read("final/obs_full"), full.read("final/obs_full"))


@pytest.mark.parametrize("kind", ["d4rl", "d3rlpy"])
def test_formats_of_one_observation_say_that_they_leave_them_out(full, tmp_path, kind):
    agent = {"agent": "predator_0"} if kind == "d3rlpy" else {}
    done = convert(full.where, tmp_path / "d.h5", to=kind, **agent)
    left_out = {item.array: item.why for item in done.not_held}
    assert "one observation of an agent" in left_out["steps/obs_full"]
    if kind == "d4rl":
        convert(tmp_path / "d.h5", tmp_path / "back.zarr", source_format=kind)
        assert ExpertBuffer.open(tmp_path / "back.zarr").spec.full is None


def test_they_are_described_and_loaded_as_other_arrays_are(full, tmp_path):
    report = inspect(full.where)
    assert "steps/obs_full" in report.model_dump_json()
    document = describe(full.where)
    assert "what the agent would see with nothing hidden" in json.dumps(document)
    assert full.to_zarr()["steps/obs_full"].shape == (full.n_steps, 2, FULL)
    assert full.to_xarray()["steps/obs_full"].sizes == {"R": full.n_steps, "N": 2, "F": FULL}
    loader = Loader.open(full.where, ["steps/obs_full", "steps/obs"], batch=2)
    batch = next(iter(loader))
    assert batch["steps/obs_full"].shape[-2:] == (2, FULL)
    kd("inspect", full.where, "--html", tmp_path / "page.html")
    assert kd_json("inspect", full.where)["id"] == full.id


def test_verification_finds_padding_that_is_not_zero(tmp_path):
    spec = environment_spec((4, 3), (3, 2), full_widths=(5, 9))
    block = episode_block(spec, [4, 3])
    block.steps["obs_full"][2, 0, 7] = 1.0
    with DatasetWriter.create(tmp_path / "d.zarr", header(spec, masks=())) as writer:
        writer.append(block)
        writer.commit({})
    report = verify(tmp_path / "d.zarr")
    assert [problem.where for problem in report.problems] == ["steps/obs_full row 2 (episode 0)"]
