"""Sparse matrices in exported C: the answers of full ones, in bytes that are counted twice."""

import re
from dataclasses import replace

import numpy as np
import pytest

from kd_offline.exports import c_library, c_source, parity_check
from kd_offline.exports.c_library import measure_on_cores
from kd_offline.exports.engines import numpy_steps, team
from kd_offline.exports.network import to_floats, to_int8
from kd_offline.exports.vectors import vectors
from kd_offline.networks.arithmetic import DeployedInputs, NetworkShape
from kd_offline.networks.deployed import Affine
from kd_offline.schemas.layers import SparseMatrices
from tests.unit.exports.conftest import ARM, Kind, exported, needs, same
from tests.unit.exports.test_c import written

KIND = Kind("gru", 1)
pytestmark = needs("cc", "make")


def thinned(matrix, block, share, rng):
    """Return a matrix with a share of its blocks, at least every seventh row empty."""
    rows, columns = matrix.weight.shape
    if rows % block:
        return matrix
    kept = rng.random((rows // block, columns)) < share
    kept[::7] = False
    weight = matrix.weight * np.repeat(kept, block, 0)
    return Affine(weight, matrix.bias, None, kept)


def sparse_networks(block, share, *, int8=False):
    rng = np.random.default_rng(0)
    networks = [n.mapped(lambda m: thinned(m, block, share, rng)) for n in exported(KIND)[1]]
    return [to_int8(n) for n in networks] if int8 else networks


def full(network):
    """The same numbers without a word of zeros."""
    return to_floats(network).mapped(lambda m: replace(m, kept=None))


def replayed(networks, agents, steps, episodes):
    return parity_check.replay(team(agents, steps, None), episodes)


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
@pytest.mark.parametrize(
    ("block", "share"), [(1, 0.1), (1, 1.0), (4, 0.3), (1, 0.0)], ids=["1", "1-all", "4", "none"]
)
def test_it_says_what_full_matrices_say(block, share, int8, episodes, tmp_path):
    networks = sparse_networks(block, share, int8=int8)
    agents, _ = written(tmp_path / "c", KIND, episodes, networks=networks)
    steps = c_library.steps(tmp_path / "c", agents, cflags="-O1")
    said = replayed(networks, agents, steps, episodes)
    dense = replayed(networks, agents, numpy_steps([full(n) for n in networks]), episodes)
    assert same(said, dense, episodes).logit_error < 1e-5
    text = (tmp_path / "c" / "kd_agent_0.c").read_text()
    assert ("KD_SPARSE(" in text) == (block == 1 or len(networks[0].trunk[0].bias) % 4 == 0)


def test_a_single_weight_and_wide_matrices_have_indices_that_hold_them(episodes, tmp_path):
    networks = list(sparse_networks(1, 0.0))
    first = networks[0].trunk[0]
    weight, kept = np.zeros_like(first.weight), np.zeros(first.weight.shape, bool)
    weight[3, 1], kept[3, 1] = 0.5, True
    networks[0] = replace(networks[0], trunk=(Affine(weight, first.bias, None, kept),))
    agents, _ = written(tmp_path / "c", KIND, episodes, networks=networks)
    text = (tmp_path / "c" / "kd_agent_0.c").read_text()
    assert "uint8_t trunk_0_column[1] = {\n    1\n}" in text
    assert "uint8_t trunk_0_start[9] = {\n    0, 0, 0, 0, 1, 1, 1, 1,\n    1\n}" in text
    steps = c_library.steps(tmp_path / "c", agents, cflags="-O1")
    dense = replayed(networks, agents, numpy_steps([full(n) for n in networks]), episodes)
    same(replayed(networks, agents, steps, episodes), dense, episodes)


def test_bits_do_not_depend_on_the_optimiser(episodes, tmp_path):
    networks = sparse_networks(4, 0.4)
    agents, _ = written(tmp_path / "c", KIND, episodes, networks=networks)
    said = [
        replayed(networks, agents, c_library.steps(tmp_path / "c", agents, cflags=flags), episodes)
        for flags in ("-O0", "-O3")
    ]
    assert np.array_equal(*said)


SIZES = {"float": 4, "int8_t": 1, "uint8_t": 1, "uint16_t": 2, "uint32_t": 4}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("block", "share"), [(1, 0.25), (4, 0.4), (1, 0.9)])
def test_tables_of_the_c_are_those_of_the_closed_form(block, share, precision, episodes, tmp_path):
    networks = sparse_networks(block, share, int8=precision == "int8")
    written(tmp_path / "c", KIND, episodes, networks=networks)
    for k, network in enumerate(networks[:2]):  # the third sees nothing
        text = (tmp_path / "c" / f"kd_agent_{k}.c").read_text()
        tables = re.findall(r"static const (\w+) \w+\[(\d+)\]", text)
        counted = sum(SIZES[kind] * int(size) for kind, size in tables)
        matrices = network.matrices.values()
        kept = tuple(None if m.kept is None else int(m.kept.sum()) for m in matrices)
        sparse = SparseMatrices(block=block, kept=kept)
        width = network.width
        shape = NetworkShape(len(network.seen), (width,), width, network.actions, sparse=sparse)
        deployed = shape.deployed(DeployedInputs(len(network.seen), network.actions))
        assert deployed.memory(precision).flash == counted
        assert deployed.memory(precision).parameters == network.parameter_bytes
        assert deployed.cost().macs == network.macs
        assert network.macs == sum(
            np.count_nonzero(np.repeat(m.kept, block, 0)) if m.kept is not None else m.weight.size
            for m in matrices
        )


@needs(*ARM)
def test_a_microcontroller_runs_it_and_has_more_flash_left(episodes, tmp_path):
    agents, few, flash = exported(KIND)[2], episodes.first(5), []
    for name, networks in (("full", exported(KIND)[1]), ("sparse", sparse_networks(1, 0.1))):
        (tmp_path / name).mkdir()
        steps = numpy_steps(networks)
        said = team(agents, steps, None)
        recorded = vectors(said, parity_check.replay(said, few), few)
        own = (networks[:1], agents[:1], recorded[:1])
        c_source.write(tmp_path / name, *own, parity_check.TOLERANCE, "a test")
        (core,) = measure_on_cores(tmp_path / name, ["Cortex-M4F"])
        flash.append(core.flash_bytes)
    assert flash[1] < flash[0]
