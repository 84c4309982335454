import numpy as np
import pytest
import torch

from kd_offline.distillation.distill import distill
from kd_offline.distillation.own_episodes import SHARE, own_episodes, passes_over
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.rerun import rerun
from kd_offline.errors import UsageError
from tests.unit.distillation.preparing import prepared

SMALL = {"optimisation.epochs": 2, "optimisation.batch_episodes": 8, "student.hidden": 8}


def test_a_seed_draws_its_share_of_the_episodes_by_itself():
    drawn = [own_episodes(100, 8, seed, 0.2) for seed in (0, 1, 0)]
    assert [len(set(own)) for own in drawn] == [20, 20, 20]
    assert np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])
    assert (np.diff(drawn[0]) > 0).all()


def test_a_seed_has_a_batch_at_least_and_everything_where_nothing_is_asked_for():
    assert len(own_episodes(100, 32, 0, 0.2)) == 32
    assert own_episodes(10, 32, 0, 0.2).tolist() == list(range(10))
    assert own_episodes(5, 2, 0, None).tolist() == list(range(5))


def test_an_epoch_goes_over_the_own_episodes_until_its_updates_are_done():
    assert passes_over(20, 100, 8) == 6  # two batches each, of twelve
    assert passes_over(100, 100, 8) == 1
    assert passes_over(32, 100, 32) == 3


def test_an_epoch_keeps_its_updates_and_holds_own_episodes_alone(buffer):
    targets = prepared(buffer, distill_recipe(diverse=True)).targets
    own = own_episodes(len(targets), 4, 3, SHARE)
    first_steps = [b.targets.inputs[0].flatten().tolist() for b in targets.parts(1)]
    mine, epochs = [first_steps[k] for k in own], []
    for epoch in (0, 1):
        batches = list(targets.epoch(4, 3, epoch))
        assert len(batches) == len(targets) // 4
        shown = torch.cat([b.targets.inputs[: b.sizes[0]] for b in batches]).flatten(1).tolist()
        assert all(row in mine for row in shown)
        epochs.append(shown)
    assert epochs[0] != epochs[1]


def test_what_a_seed_becomes_does_not_depend_on_the_other_seeds(buffer, tmp_path):
    def digests(seeds, **settings):
        recipe = distill_recipe(method="kl", seeds=seeds, settings=SMALL | settings)
        name = "-".join(map(str, (*seeds, *settings.values())))
        return [r.digest for r in distill(buffer, tmp_path / name, recipe).results]

    both = digests((0, 1), diverse=0.5)
    assert digests((1,), diverse=0.5) == both[1:]
    assert digests((1,)) != both[1:]
    assert rerun(tmp_path / "0-1-0.5", dataset=buffer).identical
    assert distill_recipe(start=tmp_path / "0-1-0.5").diverse == 0.5
    assert distill_recipe(start=tmp_path / "1").diverse is None


def test_a_share_that_would_be_everything_is_refused(buffer, tmp_path):
    recipe = distill_recipe(method="kl", diverse=True, settings=SMALL | {"threads": 1})
    wide = recipe.model_copy(
        update={"optimisation": recipe.optimisation.model_copy(update={"batch_episodes": 128})}
    )
    with pytest.raises(UsageError, match=r"each seed would learn from all 5. training episodes"):
        distill(buffer, tmp_path / "run", wide)
    assert not (tmp_path / "run").exists()


def test_impossible_shares_are_refused():
    with pytest.raises(UsageError, match="diverse"):
        distill_recipe(settings={"diverse": 0.0})
