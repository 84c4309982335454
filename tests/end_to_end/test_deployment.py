"""A profile travels with a team, and deploy-check holds it against interfaces, by commands."""

import json
import shutil

import pytest

from tests.documents import check_document
from tests.end_to_end.conftest import SPREAD, kd, kd_json, refused
from tests.sealing import resealed


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """A copy that nobody evaluated, so that other tests find the run as it was made."""
    place = tmp_path_factory.mktemp("deployed") / "run"
    shutil.copytree(made.run, place, ignore=shutil.ignore_patterns("evaluation.json"))
    shutil.copytree(made.dataset, place.parent / "dataset.zarr")
    return place


@pytest.fixture(scope="module")
def profile(made, run):
    given = ("--expert", made.expert, "--episodes", 12)
    return kd_json("profile", run, "-o", run.parent / "out" / "team.json", "--overwrite", *given)


def interface_file(profile, path, keep):
    lines = ['name = "drone"']
    for agent in profile["agents"]:
        contract = agent["contract"]
        blocks = {b["name"]: b["ranges"] for b in agent["blocks"] if keep(b)}
        inline = ", ".join(f"{name} = {ranges}" for name, ranges in blocks.items())
        lines += [f"[agents.{contract['agent']}]", f"blocks = {{ {inline} }}"]
        lines += [f"observation_width = {contract['obs_width']}"]
        lines += [f"actions = {json.dumps(contract['actions'])}"]
    path.write_text("\n".join(lines))
    return path


def test_a_profile_is_played_once_and_then_only_read(run, profile):
    check_document(profile, "profile")
    written = json.loads((run.parent / "out" / "team.json").read_text())
    assert profile == {key: value for key, value in written.items() if key != "digest"}
    assert (run / "evaluation.json").is_file()
    assert profile["cross_play"]["episodes"] == 12
    assert profile["envelope"]["played"]["kind"] == "measured"
    assert set(profile["groups"]["clusters"]["shares"]) == {"agent_0", "agent_1", "agent_2"}
    done = kd("profile", run)
    assert done.stderr == f"written: {run / 'profile.json'}\n"
    assert "its student among experts" in done.stdout
    assert f"kd-offline bench latency {run}" in done.stdout
    again = json.loads((run / "profile.json").read_text())
    assert again["cross_play"] == profile["cross_play"]


def test_the_team_fits_its_own_environment(run, profile):
    out = run.parent / "out" / "team.json"
    found = kd_json("deploy-check", out, "--environment", SPREAD)
    check_document(found, "deploy-check-output")
    assert found["fits"] is True
    assert all(agent["as_it_is"] for agent in found["agents"])
    other = kd("deploy-check", out, "--environment", SPREAD, "--env", "n_agents=4", code=1)
    assert "agents.agent_3: the interface has the agent agent_3" in other.stdout
    assert "does not fit" in other.stdout


def test_an_interface_in_a_file(run, profile, tmp_path):
    out = run.parent / "out" / "team.json"
    seen = interface_file(profile, tmp_path / "a.toml", lambda b: b["visibility"] != "hidden")
    assert "mask hides it anyway" in kd("deploy-check", out, "--obs-spec", seen).stdout
    lost = next(b["name"] for b in profile["agents"][0]["blocks"] if b["seen"])
    fewer = interface_file(profile, tmp_path / "b.toml", lambda b: b["name"] != lost)
    found = kd_json("deploy-check", out, "--obs-spec", fewer, code=1)
    assert [mismatch["where"] for mismatch in found["mismatches"]] == [
        f"agents.{agent['contract']['agent']}.blocks.{lost}"
        for agent in profile["agents"]
        if any(b["name"] == lost and b["seen"] for b in agent["blocks"])
    ]


def test_an_export_takes_its_profile_along(made, run, tmp_path):
    export = tmp_path / "export"
    kd("export", run, "--to", "torch", "--precision", "int8", "--agreement", 0.3, "-o", export)
    made_here = kd_json("profile", run, "--export", export)
    assert (export / "profile.json").is_file()
    assert made_here["export"]["precision"] == "int8"
    assert made_here["digests"]["export"].startswith("sha256:")
    assert kd_json("deploy-check", export, "--environment", SPREAD)["fits"] is True
    manifest = json.loads((export / "export.json").read_text())
    manifest["agents"][0]["actions"].reverse()
    resealed(export / "export.json", agents=manifest["agents"])
    assert "it was altered" in refused("profile", run, "--export", export, code=1)


def test_what_is_wrong_gets_one_sentence(made, run, profile, tmp_path):
    out = run.parent / "out" / "team.json"
    assert "holds no run.json" in refused("profile", made.dataset, code=2)
    assert "give 1 or more" in refused("profile", run, "--episodes", 0, code=2)
    assert "there is no profile" in refused("deploy-check", tmp_path, "--obs-spec", out, code=2)
    assert "name of an environment" in refused("deploy-check", out, code=2)
    wrong = tmp_path / "wrong.toml"
    text = "[agents.a]\nobservation_width = 2\nblocks = { b = [[0, 3]] }\nactions = ['x']"
    wrong.write_text(text)
    message = refused("deploy-check", out, "--obs-spec", wrong, code=2)
    assert "agents.a: block 'b' has the range [0, 3]" in message
    unknown = refused("deploy-check", out, "--environment", "mpe/spread", code=2)
    assert "allowed are" in unknown
    place = tmp_path / "run"
    shutil.copytree(made.run, place)
    content = bytearray((place / "students.safetensors").read_bytes())
    content[-1] ^= 1
    (place / "students.safetensors").write_bytes(content)
    assert "does not match its own digest" in refused("profile", place, code=1)
