"""Terms of plug-ins that cannot be used are refused in one sentence that names their package."""

import sys

import pytest
import torch

from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.terms.active import ActiveTerms, term_type
from kd_offline.distillation.terms.base import Elements, LossTerm, TermSettings
from kd_offline.errors import UsageError, UserCodeError
from kd_offline.testing.factories import tiny_dataset
from tests.unit.distillation.preparing import prepared


class Shy(LossTerm[TermSettings]):
    """Learns nothing of its own."""

    description = "nothing"

    def loss(self, students, targets, heads):
        return None


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Install a package for this process that offers an object as a loss term."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, part):
        info = tmp_path / f"others_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: others-{name}\nVersion: 1.0")
        (info / "entry_points.txt").write_text(f"[kd_offline.terms]\n{name} = others:part\n")
        monkeypatch.setitem(sys.modules, "others", type("others", (), {"part": part}))

    return install


@pytest.mark.parametrize("part", [int, 3, None, Shy(TermSettings(), distill_recipe())])
def test_what_is_no_class_of_a_loss_term_is_refused(offer, part):
    offer("thing", part)
    with pytest.raises(UserCodeError, match=r"'thing' of others-thing 1\.0 .* no subclass"):
        distill_recipe(settings={"weights.thing": 1.0})


@pytest.mark.parametrize("name", ["Thing", "a-b", "2nd", "loss", "epoch", "agreement"])
def test_a_name_that_recipes_or_metric_rows_cannot_hold_is_refused(offer, name):
    offer(name, Shy)
    with pytest.raises(UserCodeError, match="its name has to be of small letters"):
        term_type(name)


def test_a_name_of_ours_cannot_be_taken(offer):
    offer("kl", Shy)
    with pytest.raises(UsageError, match="'kl' is offered by kd-offline and by others-kl"):
        distill_recipe()


def learned(offer, tmp_path, kind):
    offer("shy", kind)
    recipe = distill_recipe(method="bc", settings={"weights.shy": 1.0, "weights.ce": 0.0})
    found = prepared(tiny_dataset(tmp_path / "d.zarr", 4), recipe)
    batch = found.targets.take(range(3))
    return found.losses(*found.outputs(batch), batch)


def test_nothing_to_learn_is_told(offer, tmp_path):
    with pytest.raises(UsageError, match="no loss term finds anything to learn"):
        learned(offer, tmp_path, Shy)


def test_a_figure_of_another_term_cannot_be_hidden(offer, tmp_path):
    class Hiding(Shy):
        def loss(self, students, targets, heads):
            return {"shy_more": Elements(students.weight, students.weight)} | {
                "kl": Elements(students.weight, students.weight)
            }

    with pytest.raises(UserCodeError, match=r"failed in loss: ValueError: it calls a figure 'kl'"):
        learned(offer, tmp_path, Hiding)


def test_targets_of_the_wrong_shape_are_told(offer, tmp_path):
    class Flat(Shy):
        def targets(self, batch):
            return {"flat": torch.zeros(3)}

    with pytest.raises(UserCodeError, match=r"failed in targets: .*'flat' has the shape \(3,\)"):
        learned(offer, tmp_path, Flat)


def test_only_terms_with_a_weight_are_made():
    assert list(ActiveTerms.of(distill_recipe(method="kl")).terms) == ["kl"]
