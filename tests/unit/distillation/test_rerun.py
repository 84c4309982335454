import pytest

from kd_offline.distillation.rerun import TOLERANCE, compare, platform_differences
from kd_offline.schemas.run import SeedResult
from kd_offline.testing.reports import run_manifest


def manifest(digest="sha256:1", threads=2, **held_out):
    base = run_manifest(seeds=(0,))
    result = SeedResult(seed=0, digest=digest, updates=1, held_out=held_out, seconds=1.0)
    provenance = base.provenance.model_copy(update={"threads": threads})
    return base.model_copy(update={"results": (result,), "provenance": provenance})


def test_the_same_bits():
    report = compare(manifest(), manifest(), "run", "run-rerun")
    assert report.ok
    assert report.identical
    assert report.same_platform
    assert report.tolerance == {}


def test_other_bits_on_the_same_platform_are_a_failure_however_close():
    report = compare(manifest(kl=0.5), manifest("sha256:2", kl=0.5), "run", "run-rerun")
    assert not report.ok
    assert not report.identical


@pytest.mark.parametrize(("change", "ok"), [(0.9, True), (1.1, False), (-0.9, True), (-1.1, False)])
@pytest.mark.parametrize("metric", [*TOLERANCE, "kl.agent_0"])
def test_on_another_platform_metrics_may_differ_a_little(metric, change, ok):
    tolerance = TOLERANCE[metric.split(".")[0]]
    after = manifest("sha256:2", threads=1, **{metric: 0.5 + change * tolerance})
    report = compare(manifest(**{metric: 0.5}), after, "run", "run-rerun")
    assert report.ok is ok
    assert not report.same_platform
    assert report.platform_differences == ("threads: 2 and 1",)
    assert report.seeds[0].differences == {metric: pytest.approx(change * tolerance)}


def test_the_same_bits_on_another_platform_are_right():
    assert compare(manifest(), manifest(threads=1), "run", "run-rerun").ok


def test_what_may_change_bits_is_named():
    before = run_manifest(seeds=(0,)).provenance
    after = before.model_copy(update={"packages": before.packages | {"torch": "3.0"}})
    (difference,) = platform_differences(before, after)
    assert difference.startswith("torch: ")
    assert difference.endswith(" and 3.0")
