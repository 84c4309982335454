"""Folders of unfinished work beside an output."""

import pytest

from kd_offline.errors import StorageError
from kd_offline.execution.parts import parts_folder


@pytest.mark.parametrize("asked", [{"resume": True}, {"overwrite": True}])
def test_the_target_of_a_link_is_not_cleared(asked, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("1")
    (tmp_path / "run.seeds").symlink_to(tmp_path / "thesis")
    options = {"resume": False, "overwrite": False} | asked
    with (
        pytest.raises(StorageError, match="is a link where a folder belongs"),
        parts_folder(tmp_path / "run", "seeds", "distillation", **options),
    ):
        pass
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "1"


def test_a_file_in_the_place_of_parts_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "run.seeds").write_text("")
    with (
        pytest.raises(StorageError, match=r"cannot make the folder '.*run\.seeds'"),
        parts_folder(tmp_path / "run", "seeds", "distillation", resume=False, overwrite=False),
    ):
        pass
