"""Any dataset comes back from the formats that hold everything, with the same id."""

import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kd_offline import convert
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.properties import examples

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
OPTIONAL = [
    *("steps/value", "steps/embedding", "steps/behaviour_logprob", "steps/logits"),
    *("steps/action_source", "final/obs", "final/alive", "final/value"),
    *("final/available_actions", "episodes/seed", "episodes/won", "episodes/noise_level"),
]
NAMES = {"hdf5": "x.hdf5", "vault": "x.vlt", "minari": "x-v0"}


@st.composite
def datasets(draw):
    agents = draw(st.integers(1, 3))
    widths = draw(st.lists(st.integers(1, 5), min_size=agents, max_size=agents))
    counts = draw(st.lists(st.integers(1, 5), min_size=agents, max_size=agents))
    spec = environment_spec(widths, counts, state_width=draw(st.sampled_from([0, 3])))
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    block = episode_block(
        spec,
        lengths,
        seed=draw(st.integers(0, 9)),
        embedding_dtype=draw(st.sampled_from(["float16", "float32"])),
        without=draw(st.lists(st.sampled_from(OPTIONAL), unique=True)),
    )
    block.steps["alive"][:] = np.random.default_rng(0).random(block.steps["alive"].shape) < 0.8
    if draw(st.booleans()):
        block.steps["embedding_critic"] = block.steps[
            "value" if "value" in block.steps else "reward"
        ][..., None]
    if "seed" in block.episodes:
        block.episodes["seed"][0] = np.uint64(2**64 - 1)
    shape = (len(lengths), agents, spec.obs_width)
    drawn = np.random.default_rng(1).random(shape) < 0.5
    masks = {"full": full_mask(spec), "a.b-c": drawn & full_mask(spec)}
    chosen = {
        name: masks[name] for name in draw(st.lists(st.sampled_from(list(masks)), unique=True))
    }
    codes = np.array(
        draw(st.lists(st.integers(0, 1), min_size=len(lengths), max_size=len(lengths)))
    )
    return spec, block, chosen, Splits(codes.astype(np.uint8), {"train": 0, "heldout": 1})


@examples(8)
@given(datasets(), st.sampled_from(list(NAMES)), st.sampled_from([3, 8192]))
def test_there_and_back(made, kind, window):
    spec, block, masks, splits = made
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as folder,
        patch("os.fsync"),
        patch("kd_offline.datasets.convert.interchange.row_ranges.__defaults__", (window,)),
        patch("kd_offline.datasets.convert.interchange.episode_ranges.__defaults__", (window,)),
    ):
        root = Path(folder)
        with DatasetWriter.create(root / "a.zarr", header(spec, masks=masks)) as writer:
            writer.append(block)
            manifest = writer.commit(masks, splits=splits)
        there = convert(root / "a.zarr", root / NAMES[kind], strict=True)
        back = convert(root / NAMES[kind], root / "b.zarr", strict=True)
        assert there.id == back.id == manifest.id
