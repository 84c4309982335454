"""Sparse matrices in training: which zeros move, how many there are, and that bits repeat."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from kd_offline.distillation import distill as module
from kd_offline.distillation.distill import distill
from kd_offline.distillation.phases.base import Phase
from kd_offline.distillation.phases.sparsity import SparseMatrix, SparseTraining
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.train import Training, finish, train_team
from kd_offline.errors import CheckpointError, UsageError
from kd_offline.evaluation.evaluation_setup import student_shapes
from kd_offline.exports.compact import compact
from kd_offline.exports.network import to_int8
from kd_offline.hardware import profiles
from kd_offline.hardware.model import Demand, predict
from kd_offline.networks.files import write_tensors
from kd_offline.runs.folder import open_run
from kd_offline.schemas.recipes import Sparsity
from kd_offline.students.file import CARD
from kd_offline.students.policy import load
from kd_offline.sweeps.sweep import sweep
from kd_offline.tracking.base import FunctionObserver
from tests.unit.distillation.preparing import prepared

SETTINGS = {"optimisation.epochs": 4, "optimisation.batch_episodes": 8}
SPARSE = {"sparsity.target": 0.8, "sparsity.every": 3}


def recipe(hidden=8, **changes):
    places = {name.replace("__", "."): value for name, value in changes.items()}
    return distill_recipe(
        method="kl", mask="limited", hidden=hidden, settings=SETTINGS | SPARSE | places
    )


@pytest.fixture(scope="module")
def made(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("sparse") / "run"
    manifest = distill(dataset, path, recipe())
    return open_run(path), manifest


def blocks(weight, columns, block):
    """Which blocks are not zero."""
    return (weight.detach()[:, columns].unflatten(0, (-1, block)) != 0).any(1)


def matrix(weight, block=1, kept=None):
    weight = torch.tensor(weight)
    columns = torch.arange(weight.shape[1])
    kept = blocks(weight, columns, block) if kept is None else torch.tensor(kept)
    return SparseMatrix(weight, columns, block, kept)


GRADIENT = torch.tensor([[9.0, 9.0, 0.1, -0.7], [0.4, 9.0, 9.0, 0.6]])


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (0.0, [[1, 1, 0, 0], [0, 1, 1, 0]]),
        (
            0.3,
            [[1, 0, 0, 1], [0, 1, 1, 0]],
        ),  # one of four: -0.1 goes, where the slope is -0.7 one comes
        (0.5, [[1, 0, 0, 1], [0, 1, 0, 1]]),  # and 0.2 goes, 0.6 comes
    ],
)
def test_the_smallest_go_and_grow_where_the_gradient_is_largest(share, kept):
    one = matrix([[0.5, -0.1, 0.0, 0.0], [0.0, 0.3, 0.2, 0.0]])
    one.exchange(GRADIENT, share)
    assert one.kept.int().tolist() == kept


def test_no_more_grow_than_were_zero_and_what_goes_does_not_come_back():
    one = matrix([[0.1, 0.2, 0.3, 0.0]])
    one.exchange(torch.tensor([[9.0, 9.0, 9.0, 0.0]]), 0.99)
    assert one.kept.int().tolist() == [[0, 1, 1, 1]]


def test_blocks_go_and_come_by_the_sum_of_their_rows():
    weight = np.zeros((8, 2), np.float32)
    weight[:4, 0], weight[4:, 1] = 0.1, [0.3, 0.0, 0.0, 0.0]  # sums 0.4 and 0.3
    one = matrix(weight, block=4)
    gradient = torch.zeros(8, 2)
    gradient[0, 1], gradient[4:, 0] = 0.5, 0.2  # sums 0.5 and 0.8
    one.exchange(gradient, 0.5)
    assert one.kept.int().tolist() == [[1, 0], [1, 0]]
    assert one.mask[:, 0].tolist() == [1.0] * 8
    assert one.mask[:, 1].tolist() == [0.0] * 8


def test_of_equal_weights_the_first_are_kept():
    weight = torch.ones(2, 3)
    one = SparseMatrix.largest(weight, torch.arange(3), 1, 2)
    assert one.kept.int().tolist() == [[1, 1, 0], [0, 0, 0]]


def test_columns_that_are_not_deployed_are_left_alone():
    one = SparseMatrix.largest(torch.ones(1, 4), torch.tensor([1, 2]), 1, 1)
    assert one.mask.tolist() == [[1.0, 1.0, 0.0, 1.0]]


@dataclass(slots=True)
class Count(Phase):
    """Counts after every step what is not zero, what moves, and that no average is left behind."""

    saved_as = "count"

    watched: Any = None
    state: Any = None
    seen: list = field(default_factory=list)
    kept: list = field(default_factory=list)

    def begin(self, state):
        self.state = state

    def after_step(self):
        numbers = []
        averages = dict(zip(map(id, self.state.team.parameters()), self.state.average, strict=True))
        for one in self.watched.matrices:
            there = blocks(one.weight, one.columns, one.block)
            assert not (there & ~one.kept).any()
            numbers.append(int(one.kept.sum()))
            assert not averages[id(one.weight)][one.mask == 0].any()
        self.seen.append(numbers)
        self.kept.append([one.kept.clone() for one in self.watched.matrices])


@pytest.mark.parametrize("block", [1, 4])
def test_every_matrix_has_the_same_number_of_weights_after_every_step(buffer, block):
    found = prepared(buffer, distill_recipe(method="kl", settings=SETTINGS))
    sparse = SparseTraining(0, 4, Sparsity(target=0.8, every=3, block=block), None)
    count = Count(0, 4, sparse)
    schedule = found.terms.recipe.optimisation
    state = Training.begin(found.team, found.heads, schedule, [sparse, count])
    for _ in train_team(state, found.targets, None, found.terms, 0):
        pass
    stated = [shape.sparse.kept for shape in found.team.shapes]
    assert count.seen == [[n for own in stated for n in own if n is not None]] * len(count.seen)
    moved = [
        any(not torch.equal(a, b) for a, b in zip(one, two, strict=True))
        for one, two in zip(count.kept, count.kept[1:], strict=False)
    ]
    steps = np.flatnonzero(moved) + 1
    assert steps.tolist()[:3] == [3, 6, 9]
    assert not (steps % 3).any()
    assert steps.max() < 0.75 * len(count.seen)
    (team,) = finish(state)
    for i, own in enumerate(stated):
        one = team.network(i)
        for weight, n in zip(one.matrices(), own, strict=True):
            if n is not None:
                assert int(blocks(weight, slice(None), block).sum()) == n


def test_a_run_states_what_is_counted_in_its_students(made):
    folder, manifest = made
    (student,) = load(folder.path)
    shapes, networks = student_shapes(student), compact(student)
    for own, network in zip(shapes, networks, strict=True):
        counted = sum(np.count_nonzero(m.weight) for m in network.matrices.values())
        assert own.cost().macs == network.macs == counted
        assert own.memory().parameters == network.parameter_bytes
        assert own.memory("int8").parameters == to_int8(network).parameter_bytes
        weights = sum(m.weight.size for m in network.matrices.values())
        assert counted + network.zeros == weights
        assert counted == pytest.approx(0.2 * weights, abs=3)
    assert [s.parameters for s in manifest.students] == student.parameters
    assert manifest.results[0].layers[0].sparse.block == 1


def test_the_file_holds_zeros_under_its_digest(made):
    folder, manifest = made
    with safe_open(folder.students, "pt") as file:
        weight = file.get_tensor("0.networks.0.gru.weight_hh_l0")
    kept = manifest.results[0].layers[0].sparse.kept[3]
    assert int((weight != 0).sum()) == kept < weight.numel()


def test_a_card_that_claims_more_zeros_than_there_are_is_refused(made, tmp_path):
    (student,) = load(made[0].path)
    tensors = {f"0.{name}": values for name, values in student.team.state_dict().items()}
    tensors["0.networks.1.gru.weight_hh_l0"] = torch.ones(24, 8)
    card = {CARD: student.card.model_dump_json()}
    write_tensors(tmp_path / "students.safetensors", tensors, metadata=card)
    with pytest.raises(CheckpointError, match=r"weights of agent_1 .* not as sparse as their card"):
        load(tmp_path)
    claims = json.loads(card[CARD])
    claims["layers"][0][0]["sparse"]["kept"] = [1]
    write_tensors(tmp_path / "students.safetensors", tensors, metadata={CARD: json.dumps(claims)})
    with pytest.raises(CheckpointError, match=r"weights of agent_0 .* not as sparse as their card"):
        load(tmp_path)


def test_a_card_that_states_more_blocks_than_a_matrix_has_is_refused(made, tmp_path):
    (student,) = load(made[0].path)
    tensors = {f"0.{name}": values for name, values in student.team.state_dict().items()}
    claims = json.loads(student.card.model_dump_json())
    claims["layers"][0][1]["sparse"]["kept"][3] = 10**15
    write_tensors(tmp_path / "students.safetensors", tensors, metadata={CARD: json.dumps(claims)})
    with pytest.raises(CheckpointError, match=r"weights of agent_1 .* not as sparse as their card"):
        load(tmp_path)


def test_the_number_of_threads_changes_no_bit(made, dataset, tmp_path):
    again = distill(dataset, tmp_path / "again", recipe(threads=1))
    assert again.results[0].digest == made[1].results[0].digest


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_killed_run_continues_to_the_same_bits(made, dataset, tmp_path, monkeypatch, epoch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)

    def stop(step, values, series):
        if step == epoch + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(dataset, tmp_path / "run", recipe(), observers=[FunctionObserver(metrics=stop)])
    done = distill(dataset, tmp_path / "run", recipe(), resume=True)
    assert done.results[0].digest == made[1].results[0].digest
    assert done.results[0].layers == made[1].results[0].layers
    assert done.students == made[1].students
    assert open_run(tmp_path / "run").metrics() == made[0].metrics()


def test_int8_weights_are_rounded_within_the_same_zeros(dataset, tmp_path):
    distill(dataset, tmp_path / "run", recipe(optimisation__quantise_from=0.5))
    for network in compact(load(tmp_path / "run")[0]):
        rounded = to_int8(network)
        assert (rounded.macs, rounded.zeros) == (network.macs, network.zeros)
        for one in rounded.matrices.values():
            assert one.kept is None or not one.weight[~one.kept].any()


def test_students_that_go_on_keep_their_zeros(made, dataset, tmp_path):
    settings = {"optimisation.epochs": 1, "sparsity.exchange": 0.0}
    further = distill_recipe(start=made[0].path, settings=settings)
    assert further.sparsity.target == 0.8
    distill(dataset, tmp_path / "run", further)
    before, after = (load(path)[0].team for path in (made[0].path, tmp_path / "run"))
    for i in range(3):
        one, other = before.network(i), after.network(i)
        for was, now in zip(one.matrices(), other.matrices(), strict=True):
            assert torch.equal(was != 0, now != 0)
            assert not torch.equal(was, now)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batched_seeds": True}, "sparse matrices are trained seed by seed"),
        ({"student__aligner": "linear"}, "a linear aligner .* would fill its zeros"),
        ({"budget__max_macs": 900}, "leave out sparsity, or leave out budget"),
        ({"student__family": "fusion"}, "have no sparse matrices: zeros of its matrices"),
        ({"student__family": "ptde"}, "have no sparse matrices: zeros of its matrices"),
        ({"sparsity__block": 2}, "sparsity.block"),
        ({"sparsity__target": 1.0}, "sparsity.target"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(changes, words):
    with pytest.raises(UsageError, match=words):
        recipe(**changes)


def test_what_cannot_be_so_sparse_leaves_no_folder(dataset, tmp_path):
    with pytest.raises(UsageError, match="hidden widths that 4 divides"):
        distill(dataset, tmp_path / "run", recipe(hidden=7, sparsity__block=4))
    assert not (tmp_path / "run").exists()


def test_no_time_is_predicted_of_sparse_matrices(made, dataset, tmp_path):
    (student,) = load(made[0].path)
    board = profiles.load("stm32f4")
    said = predict(board, Demand.of(student_shapes(student)[0]))
    assert (said.latency_us, said.fits) == (None, True)
    assert "speed of sparse matrices" in said.missing
    with pytest.raises(UsageError, match="those of sparse matrices are not known"):
        sweep(dataset, output=tmp_path / "sweep", recipe=recipe())
