import numpy as np
import pytest

from kd_offline.datasets.blocks import EpisodeBlock
from kd_offline.datasets.integrity import verify
from kd_offline.datasets.writer import DatasetWriter
from kd_offline.errors import NotADatasetError, UnfinishedError
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    full_mask,
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


def _set(name, index, value):
    def change(block: EpisodeBlock) -> None:
        group, bare = name.split("/")
        getattr(block, group)[bare][index] = value

    return change


def _take_illegal_action(block: EpisodeBlock) -> None:
    block.steps["available_actions"][20] = True
    block.steps["available_actions"][20, 0, 3] = False
    block.steps["actions"][20, 0] = 3


RULES = [
    (_take_illegal_action, "steps/actions row 20 (episode 2)", "not available"),
    (_set("steps/actions", (0, 1), 4), "steps/actions row 0 (episode 0)", "no such action"),
    (_set("steps/actions", (29, 1), -1), "steps/actions row 29 (episode 2)", "no such action"),
    (_set("steps/behaviour_logprob", (3, 0), 0.5), "behaviour_logprob row 3", "positive"),
    (_set("steps/action_source", (3, 0), 9), "action_source row 3", "not one of"),
    (_set("steps/obs", (17, 1, 5), 1.0), "steps/obs row 17 (episode 1)", "padding"),
    (_set("steps/terminated", 12, True), "steps/terminated row 12 (episode 1)", "before its last"),
    (_set("steps/truncated", 17, False), "steps/terminated row 17 (episode 1)", "neither"),
    (_set("episodes/expert_id", 1, 3), "episodes/expert_id episode 1", "recorded experts"),
]


@pytest.mark.parametrize(("change", "where", "what"), RULES)
def test_values_that_break_a_rule(tmp_path, small_chunks, change, where, what):
    block = episode_block(SPEC, [10, 8, 12])
    change(block)
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer:
        writer.append(block)
        writer.commit({"full": full_mask(SPEC)})
    assert verify(tmp_path / "d.zarr", quick=True).ok
    problems = verify(tmp_path / "d.zarr").problems
    assert any(where in p.where and what in p.what for p in problems), problems


def test_episodes_longer_than_the_limit(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr", lengths=[3, 26])
    (problem,) = verify(buffer.path).problems
    assert problem.where == "episodes/length episode 1"
    assert "episode limit of 25" in problem.what


def test_many_bad_rows_are_one_problem(tmp_path):
    block = episode_block(SPEC, [10])
    block.steps["action_source"][:] = np.uint8(7)
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC)) as writer:
        writer.append(block)
        writer.commit()
    (problem,) = verify(tmp_path / "d.zarr").problems
    assert "and 9 more rows" in problem.what
