"""Train, record, inspect, verify, distil, evaluate, report, rerun: through the command line."""

import json
import re
import shutil

import numpy as np
import pytest

import kd_offline
from kd_offline.schemas.publish import json_schema
from kd_offline.students import policy as students
from kd_offline.types import TeamPolicy
from tests.documents import check_document
from tests.end_to_end.conftest import DISTILL, RECORD, SPREAD, kd, kd_json
from tests.sealing import resealed


def check(document, name):
    check_document(document, name)


def test_record_prints_its_contract(made, tmp_path):
    document = kd_json(*RECORD, "--expert", made.expert, "-o", tmp_path / "again.zarr")
    check(document, "record-output")
    assert set(document) == {"id", "path", "episodes", "steps", "bytes", "seconds"}
    assert document["episodes"] == 120
    assert document["steps"] == 120 * 25
    assert document["path"] == str(tmp_path / "again.zarr")
    stored = sum(f.stat().st_size for f in (tmp_path / "again.zarr").rglob("*") if f.is_file())
    assert document["bytes"] == stored
    # Same seed and settings, same content id; another folder, batch or hour does not matter.
    assert document["id"] == kd_json("inspect", made.dataset)["id"]


def test_a_longer_recording_has_another_id(made, tmp_path):
    longer = kd_json(*RECORD, "--episodes", 121, "--expert", made.expert, "-o", tmp_path / "d")
    assert longer["id"] != kd_json("inspect", made.dataset)["id"]


def test_inspect_prints_its_contract(made):
    document = kd_json("inspect", made.dataset)
    check(document, "inspect-output")
    wanted = {"id", "format_version", "environment", "agents", "episodes", "steps", "arrays"}
    assert set(document) == wanted | {"return", "bytes"}
    assert document["environment"] == SPREAD
    assert document["arrays"]["steps/logits"] == {"shape": [3000, 3, 5], "dtype": "float32"}
    assert {f"masks/{m}" for m in ("full", "limited", "paper", "random-k")} <= set(
        document["arrays"]
    )
    buffer = kd_offline.ExpertBuffer.open(made.dataset)
    assert document["return"]["mean"] == pytest.approx(buffer.episodes("return").mean())
    assert "agent_0" in kd("inspect", made.dataset).stdout


def test_verify_prints_its_contract_and_finds_damage(made, tmp_path):
    assert kd_json("verify", made.dataset) == {"ok": True, "problems": []}
    assert kd_json("verify", made.dataset, "--quick") == {"ok": True, "problems": []}
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(made.dataset, damaged)
    chunk = max(damaged.glob("steps/obs/**/c/**/*"), key=lambda file: file.stat().st_size)
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    document = kd_json("verify", damaged, code=1)
    check(document, "verify-output")
    assert not document["ok"]
    assert any("steps/obs" in problem["where"] for problem in document["problems"])
    words = kd("verify", damaged, code=1)
    assert "steps/obs" in words.stdout
    assert words.stderr.startswith("error: ")


def test_distill_prints_its_contract(made, tmp_path):
    document = kd_json("distill", made.dataset, "-o", tmp_path / "kl", "--method", "kl", *DISTILL)
    check(document, "distill-output")
    assert set(document) == {"run", "method", "students", "judged_by", "seconds"}
    assert document["judged_by"]["part"] == "heldout"
    assert document["method"] == "kl"
    assert [s["agent"] for s in document["students"]] == ["agent_0", "agent_1", "agent_2"]
    assert {s["hidden"] for s in document["students"]} == {32}


def test_the_run_holds_what_was_asked(made):
    run = json.loads((made.run / "run.json").read_text())
    check(run, "run")
    assert run["status"] == "complete"
    assert [s["hidden"] for s in run["students"]] == [16, 8, 8]
    assert run["seeds"] == [0, 1]
    assert run["dataset"]["id"] == kd_json("inspect", made.dataset)["id"]
    teams = kd_offline.load_students(made.run)
    assert [team.widths for team in teams] == [(16, 8, 8)] * 2
    epochs = {(row["seed"], row["epoch"]) for row in _metrics(made.run)}
    assert epochs == {(0, 1), (0, 2), (1, 1), (1, 2)}


def _metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_evaluate_prints_its_contract(made):
    document = kd_json(
        "evaluate", made.run, "--expert", made.expert, "--episodes", 60, "--threads", 1
    )
    check(document, "evaluate-output")
    assert set(document) == {"episodes", "greedy", "sampled", "cost", "agreement"}
    for mode in ("greedy", "sampled"):
        assert set(document[mode]) == {"expert", "student", "random", "retention"}
        for who in ("expert", "student", "random"):
            estimate = document[mode][who]
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]
        assert "normalised" in document[mode]["retention"]
    cost = document["cost"]["expert"]
    assert set(cost) == {"parameters", "parameters_once", "macs", "flops"}
    assert cost["parameters"] == 3 * cost["parameters_once"], "the agents share one network"
    whole = json.loads((made.run / "evaluation.json").read_text())
    check(whole, "evaluation")
    assert whole["greedy"]["student"] == document["greedy"]["student"]


def test_only_the_modes_that_were_asked_for(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    document = kd_json(
        *("evaluate", run, "--expert", made.expert, "--episodes", 20, "--modes", "greedy"),
        *("--threads", 1),
    )
    assert "sampled" not in document


def test_report_is_one_file_that_needs_no_other(made, tmp_path, request):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    kd("evaluate", run, "--expert", made.expert, "--episodes", 20, "--threads", 1)
    assert kd("report", run).stdout.strip() == str(run / "report.html")
    page = (run / "report.html").read_text()
    assert "<svg" in page
    assert 'src="http' not in page
    request.getfixturevalue("undrawn")
    kd("report", run, "-o", tmp_path / "elsewhere.html")
    elsewhere = (tmp_path / "elsewhere.html").read_text()
    first, second = (re.sub(r"<svg.*?</svg>", "", x, flags=re.DOTALL) for x in (page, elsewhere))
    assert first == second
    text = kd("report", run, "--markdown").stdout
    assert text.startswith("# ")
    kd("report", run, "--markdown", "-o", tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == text


def test_rerun_is_bit_identical(made, tmp_path):
    document = kd_json("rerun", made.run, "-o", tmp_path / "again")
    check(document, "rerun-output")
    assert document["ok"]
    assert document["identical"]
    assert [seed["identical"] for seed in document["seeds"]] == [True, True]
    first, again = (
        (r / "students.safetensors").read_bytes() for r in (made.run, tmp_path / "again")
    )
    assert first == again


def test_rerun_says_when_results_differ(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    teams = students.load(run)
    next(teams[0].team.parameters()).add_(1.0)
    students.save(run / "students.safetensors", teams[0].card, [each.team for each in teams])
    results = json.loads((run / "run.json").read_text())["results"]
    results[0]["digest"] = students.digest(teams[0].team)
    resealed(run / "run.json", results=results)
    done = kd("rerun", run, code=1)
    assert done.stdout.splitlines()[0] == "not the same"
    assert (tmp_path / "run-rerun" / "students.safetensors").is_file()


def test_the_same_from_python(made, tmp_path):
    """The command line is a thin face of these functions."""
    recipe = kd_offline.distill_recipe(
        mask="limited",
        hidden=(16, 8, 8),
        seeds=2,
        settings={
            "optimisation.epochs": 2,
            "optimisation.batch_episodes": 32,
            "threads": 1,
            "switches.policy_term": "none",
            "weights.policy": 0,
        },
    )
    run = kd_offline.distill(made.dataset, tmp_path / "run", recipe)
    first = json.loads((made.run / "run.json").read_text())
    assert [result.digest for result in run.results] == [r["digest"] for r in first["results"]]
    report = kd_offline.evaluate(tmp_path / "run", episodes=20, expert=made.expert)
    assert report.greedy is not None
    assert kd_offline.verify(made.dataset).ok
    assert kd_offline.rerun(tmp_path / "run").identical


def test_students_play_through_the_one_protocol(made):
    environment = kd_offline.load_environment(SPREAD)
    expert = kd_offline.load_expert(made.expert, environment.spec)
    seeds = np.arange(4, dtype=np.uint64)
    view = environment.reset(seeds)
    policies: list[TeamPolicy] = [expert, *kd_offline.load_students(made.run)]
    for policy in policies:
        output, _ = policy.act(view, policy.start(seeds))
        assert output.logits.shape == (4, 3, 5)


def test_a_dry_run_prints_the_recipe_and_makes_nothing(made, tmp_path):
    document = json.loads(
        kd(
            *("distill", made.dataset, "-o", tmp_path / "x", "--dry-run"),
            *("--preset", "lh+a", "--set", "switches.ratio=joint", "--policy-term", "awr"),
        ).stdout
    )
    check(document, "distill-recipe")
    assert document["student"]["hidden"] == "auto"
    assert document["terms"]["policy"]["ratio"] == "joint"
    assert document["terms"]["policy"]["form"] == "awr"
    assert not (tmp_path / "x").exists()
    check(json.loads(kd("train", SPREAD, "--dry-run", "--mlp").stdout), "train-recipe")


def test_a_recipe_file_makes_the_same_run(made, tmp_path):
    document = kd_json(
        "distill", made.dataset, "-o", tmp_path / "again", "--recipe", made.run / "run.json"
    )
    assert document["method"] == "kd-marl"
    runs = [json.loads((r / "run.json").read_text()) for r in (made.run, tmp_path / "again")]
    assert runs[0]["recipe"] == runs[1]["recipe"]
    assert runs[0]["results"][0]["digest"] == runs[1]["results"][0]["digest"]


def test_environments_schemas_and_the_doctor(made):
    assert SPREAD in kd("envs").stdout
    assert SPREAD in kd_json("envs")
    assert "own_velocity 0:2" in kd("envs", SPREAD).stdout
    assert len(kd_json("envs", SPREAD, "--env", "n_agents=5")["agents"]) == 5
    assert "evaluate-output" in kd("schema").stdout
    assert json.loads(kd("schema", "run").stdout) == json_schema("run")
    document = kd_json("doctor")
    check(document, "doctor-output")
    assert document["torch"]
    assert "mpe2" in kd("doctor").stdout


def test_version_and_help():
    assert kd("--version").stdout == f"kd-offline {kd_offline.__version__}\n"
    assert "Examples:" in kd("distill", "--help").stdout
