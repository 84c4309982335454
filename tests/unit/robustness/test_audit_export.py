"""An export is audited in the place of its run's students, by its own engine."""

import shutil

import pytest

from kd_offline.deployment.profile import collaboration_profile
from kd_offline.errors import UsageError
from kd_offline.exports.engines import read_manifest
from kd_offline.robustness.audit import audit
from kd_offline.runs.folder import read_robustness
from tests.unit.evaluation.test_exported import place  # noqa: F401 - a fixture

ASKED = {"episodes": 4, "perturbations": ["noise:0.3", "stuck:0.3", "dead", "fgsm:0.1"]}


def test_an_export_plays_under_everything_but_attacks_by_gradients(place, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    shutil.copytree(place / "out", out)
    given = {"expert": place / "expert", "export": out} | ASKED
    report = audit(place / "run", **given)
    assert report.export == "int8 in numpy"
    assert report.distillation_seeds == (4,)
    trained = audit(place / "run", seeds=[4], expert=place / "expert", **ASKED)
    assert trained.export is None
    for own, other in zip(report.greedy.plays[:3], trained.greedy.plays, strict=False):
        assert own.expert == other.expert
        assert own.students.returns.mean == pytest.approx(other.students.returns.mean, rel=0.3)
    attack = report.greedy.plays[-1]
    assert attack.students is None
    assert attack.declined["students"] == (
        "fgsm needs gradients, which an export does not give: audit the run itself"
    )
    (out / ".lock").touch()  # by which a folder is locked on Windows
    read_manifest(out)  # what lies beside it is known
    assert "--export" in report.command
    assert read_robustness(out) == report
    assert read_robustness(place / "run") == trained
    profile = collaboration_profile(place / "run", export=out)
    assert profile.envelope.robustness.who == "int8 in numpy"
    (out / "robustness.json").unlink()
    profile = collaboration_profile(place / "run", export=out)
    assert profile.envelope.robustness.who == "students"
    assert any("of seed 4 was not audited itself" in limit.text for limit in profile.limits)


def test_what_does_not_go_with_an_export_is_refused(place):  # noqa: F811
    given = {"expert": place / "expert", "export": place / "out", "episodes": 4}
    with pytest.raises(UsageError, match="seeds are given, and an export holds"):
        audit(place / "run", seeds=[4], **given)
    with pytest.raises(UsageError, match="an export holds one team, and runs are compared"):
        audit(place / "run", against=place / "run", **given)
    with pytest.raises(UsageError, match="none is given: pass export with one"):
        audit(place / "run", engine="numpy", episodes=4)
    assert not (place / "out" / "robustness.json").exists()
