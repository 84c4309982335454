"""Cells of students that go on by reward and by the expert, with tiny settings."""

import json
from dataclasses import replace

from benchmarks.results import budgets, run
from benchmarks.results.plan import PARTICLE, TASKS, whole_cell


def test_students_go_on_from_those_of_their_cell_and_their_row_says_what_both_took(tmp_path):
    task = replace(TASKS[0], dataset_episodes=64, epochs=1)
    study = replace(
        PARTICLE, work=tmp_path / "work", cells=tmp_path / "cells", tasks=(task,), episodes=16
    )
    # The critic of so few episodes would be refused by KD-MARL.
    begun = replace(whole_cell(task), method="kl", seeds=(0,))
    settings = (("frames", 400), ("episodes_per_batch", 8), ("start.critic_frames", 0))
    further = replace(begun, label="and proximal", further=settings)
    study.cells.mkdir()
    run.make_dataset(study, further)
    run.make_students(study, further)
    made = json.loads((study.cells / f"{further.id}.json").read_text())
    first, second = (
        json.loads((study.work / "runs" / cell.id / "run.json").read_text())
        for cell in (begun, further)
    )
    assert first["results"][0]["digest"] != second["results"][0]["digest"]
    took = first["results"][0]["seconds"] + second["results"][0]["seconds"]
    assert made["seconds"] == [round(took, 2)]
    _, learned, _, teacher, *_ = budgets.columns(further, made, 8_000_000, "")
    assert learned == "64 episodes (8,000,000 steps), then 400 steps"
    assert teacher == "`bundled`, 400 steps"
