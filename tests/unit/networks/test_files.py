"""Tensors on disk: every bit counts, and sizes that a card claims allocate nothing."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save

from kd_offline.errors import CheckpointError, KdOfflineError, UnsealedWarning
from kd_offline.experts.checkpoint import load as load_expert
from kd_offline.networks.files import read_tensors, write_tensors
from kd_offline.students.file import CARD
from kd_offline.students.policy import load
from tests.sealing import resealed, resealed_tensors
from tests.unit.evaluation.test_evaluation_setup import expert, make_run

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1, dtype=torch.int64)}


def test_tensors_come_back_and_the_same_ones_are_the_same_bytes(tmp_path):
    metadata = {"one": "1", "two": "ü", "three": "3"}
    for name in "xy":
        write_tensors(tmp_path / name, TENSORS, metadata)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    file = read_tensors(tmp_path / "x", "")
    assert file.metadata == metadata
    for name, value in file.tensors().items():
        assert torch.equal(value, TENSORS[name])


def test_a_flipped_bit_of_any_byte_of_tensors_is_noticed(tmp_path):
    path = tmp_path / "x"
    write_tensors(path, TENSORS, {"card": "{}"})
    content = path.read_bytes()
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << (place % 8)
        path.write_bytes(altered)
        with pytest.raises(KdOfflineError):
            read_tensors(path, "copy it again")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("claims")
    return make_run(place / "run", expert(place / "expert"), motion=False)


def test_students_of_an_older_version_are_read_with_a_warning(run, tmp_path):
    file = read_tensors(run.students, "")
    older = file.metadata[CARD].replace('"format_version":[1,3]', '"format_version":[1,1]')
    (tmp_path / "s").write_bytes(save(file.tensors(), {CARD: older}))
    with pytest.warns(UnsealedWarning, match="written before"):
        assert len(load(tmp_path / "s")) == 2
    (tmp_path / "s").write_bytes(save(file.tensors(), file.metadata))
    with pytest.raises(CheckpointError, match="does not hold its digest"):
        load(tmp_path / "s")


CLAIMS = {
    "widths": ('"widths":[8,6,4]', '"widths":[40000,40000,40000]'),
    "depth": ('"depth":1', '"depth":999999999'),
    "observations": ('"obs_widths":[18,18,18]', '"obs_widths":[999999999999,18,18]'),
    "actions": ('"action_counts":[5,5,5]', '"action_counts":[5,5,999999999999]'),
    "within reach": ('"widths":[8,6,4]', '"widths":[900,900,900]'),
}


def test_claimed_sizes_of_students_allocate_nothing(run, tmp_path):
    """In a process that may use 1 GB beyond what PyTorch needs to start."""
    for claim, (stated, changed) in CLAIMS.items():
        file = tmp_path / claim
        file.write_bytes(run.students.read_bytes())
        resealed_tensors(file, stated, changed)
        assert file.stat().st_size < 100_000
    code = (
        "import resource, sys, torch\n"
        "from kd_offline.errors import CheckpointError\n"
        "from kd_offline.students.policy import load\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)\n"
        "for file in sys.argv[1:]:\n"
        "    try:\n        load(file)\n"
        "    except CheckpointError as error:\n        print(error)\n"
    )
    files = [str(tmp_path / claim) for claim in CLAIMS]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sentences = done.stdout.splitlines()
    assert len(sentences) == len(files)
    for file, sentence in zip(files, sentences, strict=True):
        assert file in sentence
        assert "distil them again" in sentence


def test_claimed_sizes_of_experts_allocate_nothing(tmp_path):
    folder = expert(tmp_path / "expert")
    card = (folder / "expert.json").read_bytes()
    recipe = json.loads(card)["recipe"]
    for key, value in (("trunk", [40_000]), ("gru", 40_000), ("critic_trunk", [-1])):
        changed = recipe | {"architecture": recipe["architecture"] | {key: value}}
        resealed(folder / "expert.json", recipe=changed)
        refusal = rf"is damaged: recipe\.architecture\.{key}(\.0)? is -?\d+: Input should be"
        with pytest.raises(CheckpointError, match=refusal):
            load_expert(folder, "expert")


def test_masks_of_another_shape_than_the_environment_are_refused(run, tmp_path):
    file = tmp_path / "s"
    file.write_bytes(run.students.read_bytes())
    resealed_tensors(file, '"mask_features":[[', '"mask_features":[[true],[')
    with pytest.raises(CheckpointError, match="mask_features must have the shape"):
        load(file)
    assert np.array(load(run.path)[0].card.mask_features).shape == (3, 18)
