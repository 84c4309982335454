import pytest

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.validation.integrity import verify
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import NotADatasetError, UnfinishedError
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    header,
    tiny_dataset,
)

SPEC = environment_spec((6, 3), (5, 2))


@pytest.mark.parametrize("quick", [True, False])
def test_a_whole_dataset_has_no_problems(ragged, quick):
    report = verify(ragged.path, quick=quick)
    assert (report.ok, report.problems) == (True, ())


def test_without_optional_arrays(tmp_path):
    without = ["steps/logits", "steps/embedding", "steps/value", "episodes/seed", "final/obs"]
    assert verify(tiny_dataset(tmp_path / "d.zarr", without=without).path).ok


def test_nothing_to_verify(tmp_path):
    with pytest.raises(NotADatasetError):
        verify(tmp_path)
    DatasetWriter.create(tmp_path, header(SPEC)).close()
    with pytest.raises(UnfinishedError):
        verify(tmp_path)


def test_altered_manifest_is_one_problem(ragged):
    path = ragged.path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"random", b"Random"))
    report = verify(ragged.path)
    assert [problem.where for problem in report.problems] == ["manifest.json"]


def test_problems_name_array_and_rows(ragged):
    (ragged.path / "steps/value/c/2/0").unlink()
    chunk = ragged.path / "final/obs/c/1/0/0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    (ragged.path / "steps/extra").write_text("")
    (ragged.path / "link").symlink_to("/etc")
    found = {problem.where for problem in verify(ragged.path).problems}
    assert found == {"steps/value rows 32 to 47", "final/obs rows 16 to 31", "steps/extra", "link"}


def test_left_overs_of_a_killed_commit_do_no_harm(ragged):
    (ragged.path / "recording.json").write_text("{}")
    assert verify(ragged.path).ok


def written(path, block, masks=None, head=None):
    with DatasetWriter.create(path, head or header(SPEC, masks=masks or {})) as writer:
        writer.append(block)
        writer.commit(masks)
    return path


def test_splits_are_drawn_without_such_leaks(tmp_path):
    block = episode_block(SPEC, [5] * 40)
    block.episodes["seed"][20:] = block.episodes["seed"][:20]
    path = written(tmp_path / "d.zarr", block, head=header(SPEC, masks=()))
    assert verify(path).ok
    assert set(ExpertBuffer.open(path).episodes("split")) == {0, 1}
