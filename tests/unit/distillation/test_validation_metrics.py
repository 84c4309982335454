"""What is called held out was not trained on, and what nobody decides is not counted."""

import json
import warnings

import numpy as np
import pytest

from kd_offline.datasets.edit.filter import Conditions, filter
from kd_offline.datasets.edit.split import split
from kd_offline.distillation.distill import distill
from kd_offline.distillation.rerun import rerun
from kd_offline.errors import UsageError
from kd_offline.reports.html import render
from kd_offline.reports.markdown import markdown
from kd_offline.runs.folder import open_run
from kd_offline.schemas.recipes import DistillRecipe, Optimisation
from kd_offline.testing.factories import environment_spec, tiny_dataset

RECIPE = DistillRecipe(
    method="kl",
    weights={"kl": 1.0, "ce": 0.5, "structure": 0.0, "role": 0.0, "policy": 0.0},
    student={"hidden": 4, "depth": 1},
    optimisation=Optimisation(epochs=3, batch_episodes=4),
)


def judged_by(part):
    return RECIPE.model_copy(update={"judge_by": part})


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A dataset whose parts are called train, val and test."""
    place = tmp_path_factory.mktemp("parts")
    tiny_dataset(place / "d", 10)
    split(place / "d", place / "s", parts={"train": 0.6, "val": 0.2, "test": 0.2})
    return place / "s"


def splits_of(run):
    return {row["split"] for row in open_run(run).metrics()}


def test_without_a_held_out_part_nothing_is_called_held_out(parts, tmp_path):
    manifest = distill(parts, tmp_path / "run", RECIPE)
    assert manifest.judged_by is None
    assert [(r.best_epoch, r.held_out) for r in manifest.results] == [(None, {})]
    assert splits_of(tmp_path / "run") == {"train"}
    for page in (render(open_run(tmp_path / "run")), markdown(tmp_path / "run")):
        assert "nothing was held out" in page
        assert "held-out kl" not in page


def test_a_named_part_judges_and_is_named(parts, tmp_path):
    manifest = distill(parts, tmp_path / "run", judged_by("val"))
    assert (manifest.judged_by.part, manifest.judged_by.episodes) == ("val", 2)
    assert splits_of(tmp_path / "run") == {"train", "val"}
    rows = [row for row in open_run(tmp_path / "run").metrics() if row["split"] == "val"]
    best = min(rows, key=lambda row: row["kl"])
    (result,) = manifest.results
    assert result.best_epoch == best["epoch"]
    assert result.held_out["kl"] == best["kl"]
    assert "judged by 2 held-out episodes (part &#39;val&#39;)" in render(
        open_run(tmp_path / "run")
    )


def test_the_part_that_is_trained_on_cannot_judge(parts, tmp_path):
    with pytest.raises(UsageError, match="students are trained on: give one of val, test"):
        distill(parts, tmp_path / "run", judged_by("train"))
    assert not (tmp_path / "run").exists()


def test_training_episodes_alone_hold_nothing_out(tmp_path):
    tiny_dataset(tmp_path / "d", 10)
    filter(tmp_path / "d", tmp_path / "t", Conditions(split="train"))
    assert distill(tmp_path / "t", tmp_path / "run", RECIPE).judged_by is None


def test_a_single_episode_holds_nothing_out(tmp_path):
    tiny_dataset(tmp_path / "d", 1)
    assert distill(tmp_path / "d", tmp_path / "run", RECIPE).judged_by is None


def test_the_last_weights_are_kept_where_nothing_judges(parts, tmp_path):
    """They are those of a run that is judged once, at its end."""
    at_the_end = RECIPE.optimisation.model_copy(update={"evaluate_every": 3})
    judged = judged_by("val").model_copy(update={"optimisation": at_the_end})
    results = [
        distill(parts, tmp_path / name, recipe).results[0]
        for name, recipe in (("unjudged", RECIPE), ("judged", judged))
    ]
    assert [result.best_epoch for result in results] == [None, 3]
    assert results[0].digest == results[1].digest


def test_a_rerun_without_held_out_figures_goes_by_the_weights_alone(parts, tmp_path):
    distill(parts, tmp_path / "run", RECIPE)
    report = rerun(tmp_path / "run")
    assert (report.ok, report.identical, report.compared_by) == (True, True, "bits")


def test_with_one_action_there_is_nothing_to_agree_about(tmp_path):
    tiny_dataset(tmp_path / "d", 8, spec=environment_spec(action_counts=(1, 1, 1)))
    manifest = distill(tmp_path / "d", tmp_path / "run", RECIPE)
    assert manifest.judged_by is not None
    assert manifest.results[0].held_out == {}
    rows = open_run(tmp_path / "run").metrics()
    assert not any({"kl", "agreement", "joint_agreement"} & row.keys() for row in rows[1::2])


def test_agents_without_a_choice_have_no_figure_of_their_own(tmp_path):
    tiny_dataset(tmp_path / "d", 8, spec=environment_spec(action_counts=(5, 1, 5)))
    figures = distill(tmp_path / "d", tmp_path / "run", RECIPE).results[0].held_out
    assert {name for name in figures if "." in name} == {"kl.agent_0", "kl.agent_2"}


def test_what_counts_does_not_depend_on_what_is_trained_on(tmp_path):
    """Forced steps may be trained on; agreement is about choices all the same."""
    tiny_dataset(tmp_path / "d", 8, spec=environment_spec(action_counts=(1, 1, 1)))
    objective = RECIPE.objective.model_copy(update={"drop_forced": False})
    recipe = RECIPE.model_copy(update={"objective": objective})
    assert distill(tmp_path / "d", tmp_path / "run", recipe).results[0].held_out == {}


def test_run_json_of_an_older_version_says_that_it_does_not_know(parts, tmp_path):
    distill(parts, tmp_path / "run", judged_by("val"))
    file = tmp_path / "run" / "run.json"
    document = json.loads(file.read_text("utf-8"))
    for name in ("judged_by", "digest"):
        document.pop(name, None)
    document["version"] = [1, 1]
    file.write_text(json.dumps(document), "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such a run has no digest of itself
        assert "an older version made this run" in markdown(tmp_path / "run")
        assert np.isfinite(open_run(tmp_path / "run").manifest().results[0].held_out["kl"])
