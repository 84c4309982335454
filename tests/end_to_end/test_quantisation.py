"""Floats, int8 rounded afterwards and int8 trained for it, through the command line."""

import json

import pytest

from tests.documents import check_document
from tests.end_to_end.conftest import DISTILL, kd, kd_json, refused

pytestmark = pytest.mark.usefixtures("undrawn")

PLAYED = ["--episodes", 30, "--seed", 3]


@pytest.fixture(scope="module")
def pair(made, tmp_path_factory):
    """The same distillation without and with --qat."""
    place = tmp_path_factory.mktemp("quantisation")
    same = ["distill", made.dataset, "--method", "kl", "--hidden", 8, "--seeds", 2, *DISTILL]
    kd(*same, "-o", place / "plain")
    kd(*same, "-o", place / "aware", "--qat")
    return place


@pytest.fixture(scope="module")
def document(made, pair):
    asked = ["--qat", pair / "aware", "--expert", made.expert, *PLAYED]
    return kd_json("bench", "quantisation", pair / "plain", *asked)


def test_three_precisions_play_the_same_episodes(made, pair, document):
    check_document(document, "quantisation")
    written = json.loads((pair / "plain" / "quantisation.json").read_text())
    assert document == {key: value for key, value in written.items() if key != "digest"}
    floats, after, trained = document["rows"]
    names = ["fp32", "int8 after training", "int8 in training"]
    assert [row["name"] for row in document["rows"]] == names
    assert [row["run"] for row in document["rows"]] == ["plain", "plain", "aware"]
    assert after["parameter_bytes"] == trained["parameter_bytes"] < floats["parameter_bytes"]
    assert [one["agreement"] for one in floats["rounding"]] == [1.0, 1.0]
    for row in (after, trained):
        assert all(1e-5 < one["logit_error"] < 1 for one in row["rounding"])
    played = kd_json("evaluate", pair / "plain", "--expert", made.expert, *PLAYED)["greedy"]
    for who in ("expert", "random"):
        assert document[who]["mean"] == pytest.approx(played[who]["mean"], abs=1e-9)
    assert floats["student"]["mean"] == pytest.approx(played["student"]["mean"], rel=1e-3)


def test_the_report_shows_them(pair, document):
    text = kd("report", pair / "plain", "--markdown").stdout
    assert "## Precision of the weights" in text
    assert "| int8 in training |" in text
    assert document["command"] in text
    kd("report", pair / "plain", "-o", pair / "report.html")
    assert "What eight bits cost" in (pair / "report.html").read_text("utf-8")


def test_runs_that_differ_in_more_than_the_rounding_are_refused(made, pair):
    asked = ["--expert", made.expert, *PLAYED]
    for other in (pair / "plain", made.run):
        words = refused("bench", "quantisation", pair / "plain", "--qat", other, *asked, code=2)
        assert "with int8 weights at the end" in words


def test_a_run_alone_is_rounded_afterwards(made, pair):
    asked = ["--expert", made.expert, *PLAYED]
    alone = kd_json("bench", "quantisation", pair / "aware", *asked)
    assert [row["name"] for row in alone["rows"]] == ["fp32", "int8 after training"]
