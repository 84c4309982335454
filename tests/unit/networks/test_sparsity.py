"""How many weights of each matrix a sparse network stores, against hand calculations."""

import pytest

from kd_offline.errors import UsageError
from kd_offline.networks.arithmetic import (
    DeployedInputs,
    NetworkShape,
    index_bytes,
    index_size,
    sparse_of,
    zeros_of,
)
from kd_offline.networks.sparsity import sparse_matrices
from kd_offline.schemas.layers import SparseMatrices
from kd_offline.schemas.recipes import Sparsity


def kept(sizes, target, **settings):
    return sparse_matrices(sizes, Sparsity(target=target, **settings)).kept


def test_erk_densities_follow_rows_and_columns():
    # 12 of 24 weights; densities s 6/8 and s 8/16 with s = 12 / (6 + 8): 0.643 and 0.429.
    assert kept([(4, 2), (4, 4)], 0.5) == (5, 7)


def test_a_matrix_beyond_density_one_is_full_and_the_others_make_up_for_it():
    # 34 of 68 weights; the small one would have 1.7, so that 30 are left for the large one.
    assert kept([(8, 8), (2, 2)], 0.5) == (30, None)


def test_uniform_densities_are_the_same():
    assert kept([(4, 2), (4, 4)], 0.5, densities="uniform") == (4, 8)


def test_blocks_are_counted_and_rows_that_do_not_divide_stay_full():
    # 30 of 80 weights, of which the head of 5 rows has 20: 10 of 60, in blocks of 4 two or three.
    assert kept([(4, 3), (8, 6), (5, 4)], 0.625, block=4, densities="uniform") == (1, 2, None)


def test_at_least_one_block_is_stored():
    assert kept([(4, 4), (40, 40)], 0.99, densities="uniform") == (1, 16)


def test_a_matrix_without_columns_stays_as_it_is():
    assert kept([(4, 0), (4, 4)], 0.5) == (None, 8)


@pytest.mark.parametrize("sizes", [[(5, 4), (4, 4)], [(5, 4)]])
def test_what_cannot_be_so_sparse_is_refused_in_one_sentence(sizes):
    with pytest.raises(UsageError, match=r"cannot have 80% zeros in blocks of 4: choose a smaller"):
        kept(sizes, 0.8, block=4)


def test_indices_have_the_smallest_type_that_holds_them():
    assert [index_size(n) for n in (0, 255, 256, 65535, 65536)] == [1, 1, 2, 2, 4]
    assert index_bytes(3, 256, 10) == 10 + 4
    assert index_bytes(3, 257, 300) == 2 * 300 + 2 * 4


def test_only_stored_weights_count_in_parameters_macs_and_bytes():
    full = NetworkShape(inputs=6, trunk=(8,), gru=4, outputs=3)
    sparse = SparseMatrices(block=4, kept=(2, 5, 3, None))  # of 12, 24, 12 blocks
    shape = NetworkShape(6, (8,), 4, 3, sparse=sparse).deployed(DeployedInputs(6, 3))
    assert shape.matrices == [(8, 6), (12, 8), (12, 4), (3, 4)]
    assert shape.cost().macs == 4 * (2 + 5 + 3) + 12
    dense = full.deployed(DeployedInputs(6, 3))
    less = dense.cost().macs - shape.cost().macs
    assert zeros_of(shape) == less
    assert dense.cost().parameters - shape.cost().parameters == less
    assert (zeros_of(dense), sparse_of(dense)) == (0, None)
    indices = (2 + 3) + (5 + 4) + (3 + 4)  # columns, and row pointers of 2, 3 and 3 rows of blocks
    assert shape.memory().parameters == dense.memory().parameters - 4 * less + indices
    assert shape.memory("int8").parameters == dense.memory("int8").parameters - less + indices
    head = 8 * (4 * 4 + 4)  # full matrices are padded to eight rows
    assert shape.memory().flash == 4 * 40 + indices + 4 * (8 + 12 + 12) + head + 4 * 12
    assert shape.memory().ram == dense.memory().ram
