"""A small dataset whose figures can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.datasets.format import layout
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header

SPEC = environment_spec((4, 3), (3, 2), episode_limit=4)
LENGTHS = [2, 3, 1]


def dataset(path, *, spec=SPEC, lengths=LENGTHS, masks=None, expert=None, without=(), **changes):
    """A small dataset, random but for ``changes``: steps_x, final_x, episodes_x."""
    block = episode_block(spec, lengths, without=without)
    groups = {"steps": dict(block.steps), "final": dict(block.final)}
    groups["episodes"] = dict(block.episodes)
    for name, values in changes.items():
        group, _, array = name.partition("_")
        groups[group][array] = np.asarray(values)
    given = {"full": full_mask(spec)} if masks is None else masks
    head = header(spec, masks=given)
    if expert is not None:
        experts = (head.experts[0].model_copy(update=expert),)
        head = head.model_copy(update={"experts": experts})
    with DatasetWriter.create(path, head) as writer:
        writer.append(replace(block, **groups))
        writer.commit(given)
    return ExpertBuffer.open(path)


@pytest.fixture(params=[1, 2, 8192])
def chunked(request, monkeypatch):
    """The same figures come out whatever the chunks: of one row, of two, of all."""
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", request.param)
    monkeypatch.setattr(layout, "MIN_CHUNK_ROWS", request.param)
