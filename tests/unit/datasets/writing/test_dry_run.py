import pytest

from kd_offline.datasets.writing.dry_run import dry_run, require_storable
from kd_offline.errors import UsageError
from kd_offline.testing.factories import environment_spec, header

SPEC = environment_spec((6, 3))


def test_a_header_that_can_be_recorded_passes_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dry_run(header(SPEC, masks={"full": None}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["a\x00b", "right\u202eleft", "\ud800"])
def test_text_that_no_manifest_holds_is_refused_by_its_field(text):
    head = header(SPEC, masks=()).model_copy(update={"description": text})
    with pytest.raises(UsageError, match=r"^description is .*which a dataset cannot hold"):
        dry_run(head)


def test_the_name_of_a_field_counts_as_well():
    with pytest.raises(UsageError, match=r"the name settings\.a"):
        require_storable({"settings": {"a\x00": 1}})
    require_storable({"settings": {"a": [1, 2.5, None, "b"]}})


def test_a_number_that_json_has_not_is_refused():
    with pytest.raises(UsageError, match=r"recording\.seconds is nan"):
        require_storable({"recording": {"seconds": float("nan")}})
