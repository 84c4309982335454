"""The table of anchors: what is planned reaches its aim, and what is shown is what was measured."""

import pytest

from benchmarks.anchors import TASKS, page
from kd_offline import environments
from kd_offline.experts.load import load
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.students.masks import resolve
from kd_offline.students.networks import StudentInputs, agent_shape, exported_shape

ROW = {
    "retention": (0.951, 0.9402, 0.9618),
    "retention_int8": None,
    "expert_parameters": 102_789,
    "expert_flops": 609_792,
    "student_flops": 12_960,
    "factor": 609_792 / 12_960,
    "expert_c_us": 8.62,
    "student_c_us": 0.354,
    "faster": 24.35,
    "flash_bytes": 4976,
    "ram_bytes": 656,
    "machine": "a processor",
    "evaluation_seed": 7,
    "effort": {"seeds": 5, "played": 4000},
}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.slug)
def test_every_team_needs_40_times_fewer_flops(task):
    spec = environments.load(task.name).spec
    expert = sum(s.cost().macs for s in load("bundled", spec).actor_shapes())
    for mask, widths in task.teams:
        seen = resolve(mask, spec).static.sum(axis=1)
        hides = tuple(seen) != spec.obs_widths
        inputs = StudentInputs(motion=hides, last_action=hides)
        shapes = [
            agent_shape(spec, StudentArchitecture(depth=task.depth), i, w, inputs)
            for i, w in enumerate(widths)
        ]
        students = sum(
            exported_shape(shape, inputs, int(k), drawn=False).cost().macs
            for shape, k in zip(shapes, seen, strict=True)
        )
        assert expert / students >= 40, (mask, widths)


def test_rows_are_shown_and_missing_ones_say_so():
    lines = page({"spread.full.20-20-20": ROW}).splitlines()
    (measured,) = [line for line in lines if "609,792" in line]
    assert [cell.strip() for cell in measured.strip("|").split("|")] == [
        *("mpe/simple_spread_v3", "full", "20, 20, 20", "95.1 % (94.0 to 96.2)", "undefined"),
        *("609,792", "12,960", "47.1", "8.62 us", "0.35 us", "24", "4,976 B", "656 B"),
        *("30.0", "94.8 %"),  # 46.0 / 48.5
    ]
    planned = sum(len(task.teams) for task in TASKS)
    assert sum("not measured" in line for line in lines) == planned - 1
    assert "up to 102,789 parameters. Played: 5 distillation seeds and 4,000" in lines[-1]
    assert lines[-1].endswith("episodes of evaluation seed 7. Timed on a processor.")
    (adversary,) = [line for line in lines if "adversary_v3 | full" in line]
    assert adversary.endswith("| 29.1 | 93.3 % |")  # 16.8 / 18.0
