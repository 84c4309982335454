import numpy as np
import pytest

from kd_offline.datasets.edit.split import split
from kd_offline.datasets.format.layout import SPLITS
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.reading.held_out import held_out
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import DatasetError, UsageError
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header


def dataset(path, codes, names=SPLITS, seeds=None):
    """Four short episodes in the parts ``codes``."""
    spec = environment_spec()
    block = episode_block(spec, [2, 3, 4, 5])
    if seeds is not None:
        block.episodes["seed"] = np.array(seeds, np.uint64)
    with DatasetWriter.create(path, header(spec)) as writer:
        writer.append(block)
        return writer.commit(
            {"full": full_mask(spec)}, splits=Splits(np.array(codes, np.uint8), names)
        )


def opened(path):
    from kd_offline.datasets.reading.reader import ExpertBuffer

    return ExpertBuffer.open(path)


def test_heldout_is_what_students_are_judged_by(tmp_path):
    dataset(tmp_path / "d", [0, 1, 0, 1])
    found = held_out(opened(tmp_path / "d"))
    assert found.part == "heldout"
    assert found.episodes.tolist() == [1, 3]


def test_nothing_is_held_out_where_everything_is_trained_on(tmp_path):
    dataset(tmp_path / "d", [0, 0, 0, 0])
    assert held_out(opened(tmp_path / "d")) is None


def test_another_part_is_held_out_only_where_it_is_named(tmp_path):
    dataset(tmp_path / "d", [0, 2, 3, 3], SPLITS | {"val": 2, "test": 3})
    buffer = opened(tmp_path / "d")
    assert held_out(buffer) is None
    assert held_out(buffer, "val").episodes.tolist() == [1]
    with pytest.raises(
        UsageError, match=r"'train'.*students are trained on: give one of val, test"
    ):
        held_out(buffer, "train")
    with pytest.raises(UsageError, match=r"'vla'.*holds no episode: give one of val, test"):
        held_out(buffer, "vla")
    with pytest.raises(UsageError, match=r"'heldout'.*holds no episode"):
        held_out(buffer, "heldout")


def test_without_any_other_part_split_is_what_to_do(tmp_path):
    dataset(tmp_path / "d", [0, 0, 0, 0])
    with pytest.raises(UsageError, match="make one with kd-offline split"):
        held_out(opened(tmp_path / "d"), "val")


def test_training_episodes_that_are_there_again_are_not_held_out(tmp_path):
    dataset(tmp_path / "d", [0, 1, 0, 1], seeds=[5, 6, 7, 5])
    with pytest.raises(DatasetError, match=r"1 of the 2 episodes in the part 'heldout'.*again"):
        held_out(opened(tmp_path / "d"))


def test_two_names_of_one_part_hold_nothing_out(tmp_path):
    dataset(tmp_path / "d", [0, 0, 0, 0], SPLITS | {"val": 2})
    buffer = opened(tmp_path / "d")
    splits = buffer.manifest.splits
    same = splits | {"val": splits["train"]}
    object.__setattr__(buffer, "manifest", buffer.manifest.model_copy(update={"splits": same}))
    with pytest.raises(DatasetError, match="4 of the 4"):
        held_out(buffer, "val")


def test_the_parts_of_split_can_be_named(tmp_path):
    dataset(tmp_path / "d", [0, 0, 0, 0])
    split(tmp_path / "d", tmp_path / "s", parts={"train": 0.5, "val": 0.25, "test": 0.25})
    buffer = opened(tmp_path / "s")
    assert held_out(buffer) is None
    assert len(held_out(buffer, "val").episodes) == 1
