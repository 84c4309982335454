import pytest

from kd_offline import convert
from kd_offline.datasets.format.final_values import caution
from kd_offline.datasets.metadata import cards, summary
from kd_offline.testing.factories import tiny_dataset


def stated(manifest, *answers):
    """The manifest of experts whose critics bootstrapped at time limits, did not, or may have."""
    (expert,) = manifest.experts
    experts = [expert.model_copy(update={"bootstraps_truncation": a}) for a in answers]
    return manifest.model_copy(update={"experts": tuple(experts)})


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ((True,), None),
        ((True, True), None),
        ((False,), "never learned"),
        ((True, False), "never learned"),
        ((None,), "not known"),
        ((True, None), "not known"),
    ],
)
def test_final_values_count_only_where_every_critic_learned_them(tmp_path, answers, words):
    found = caution(stated(tiny_dataset(tmp_path / "d").manifest, *answers))
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found
        assert "do not bootstrap from it" in found


def test_without_final_values_there_is_nothing_to_say(tmp_path):
    buffer = tiny_dataset(tmp_path / "d", without=["final/value"])
    assert caution(stated(buffer.manifest, False)) is None


def test_inspect_card_and_conversion_say_it(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr")
    said = caution(buffer.manifest)
    assert said is not None
    assert said in "\n".join(summary.render(buffer))
    assert said[1:] in cards.render(buffer)
    assert said in convert(buffer.path, tmp_path / "d.hdf5").notes
    assert said in convert(buffer.path, tmp_path / "d-v0").notes
    assert said not in convert(buffer.path, tmp_path / "x.h5", to="d4rl").notes
