"""``rerun``: repeat a distillation from its run folder and compare the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import check_profile, check_start, completed
from kd_offline.distillation.run import require_distilled, require_versions
from kd_offline.runs.complete import complete_run
from kd_offline.runs.folder import recipe_of
from kd_offline.runs.source import open_dataset
from kd_offline.schemas.outputs import RerunReport, SeedComparison
from kd_offline.schemas.run import Provenance, RunManifest
from kd_offline.tracking.base import Observer

TOLERANCE = {"kl": 0.02, "ce": 0.02, "agreement": 0.02, "joint_agreement": 0.03}
"""Largest difference of a held-out metric on another platform, in nats and in shares; the same for
each agent's own."""


def rerun(
    run: str | Path,
    output: str | Path | None = None,
    *,
    dataset: str | Path | None = None,
    profile: str | Path | None = None,
    start: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    observers: Sequence[Observer] = (),
) -> RerunReport:
    """Repeat the distillation of ``run`` and compare the results with the first ones.

    On the same kind of processor, thread count and versions the weights must agree bit for bit;
    elsewhere held-out metrics must agree within :data:`TOLERANCE`. Where nothing was held out there
    are none, and only the weights can show that a repetition is one.

    Parameters
    ----------
    run
        A complete run folder.
    output
        Folder of the repetition; default: the run's name with ``-rerun``.
    dataset
        The dataset; default: the path that the run states, but no server. Its id must be the run's.
    profile
        The hardware profile of the run's budget, where the run names it by a path.
    start
        The run whose students this one went on from, where the run names it by a path.
    observers
        As :func:`~kd_offline.distillation.distill.distill` takes them.

    Raises
    ------
    UsageError, MismatchError, DatasetError, StorageError
        The run is not complete, or the dataset is not the one that it was distilled from.
    """
    before = complete_run(run).manifest
    require_distilled(before, run)
    folder = Path(run)
    target = folder.with_name(f"{folder.resolve().name}-rerun") if output is None else Path(output)
    require_versions(before.parts, f"the run in {str(run)!r}")
    recipe = completed(recipe_of(before), f"the run in {str(run)!r}", before.parts)
    if profile is None:
        check_profile(recipe, f"the run in {str(run)!r}", "profile")
    elif recipe.budget is not None:
        budget = recipe.budget.model_copy(update={"profile": str(profile)})
        recipe = recipe.model_copy(update={"budget": budget})
    if start is None:
        check_start(recipe, f"the run in {str(run)!r}")
    elif recipe.start is not None:
        moved = recipe.start.model_copy(update={"run": str(start)})
        recipe = recipe.model_copy(update={"start": moved})
    source = open_dataset(before, folder, dataset)
    after = distill(
        source,
        target,
        recipe,
        resume=resume,
        overwrite=overwrite,
        command=command,
        observers=observers,
    )
    return compare(before, after, str(run), str(target))


def compare(before: RunManifest, after: RunManifest, run: str, rerun: str) -> RerunReport:
    """Compare the results of two runs of one recipe."""
    differences = platform_differences(before.provenance, after.provenance)
    old = {result.seed: result for result in before.results}
    seeds = tuple(
        SeedComparison(
            seed=new.seed,
            identical=new.digest == old[new.seed].digest,
            differences=_differences(old[new.seed].held_out, new.held_out),
        )
        for new in after.results
    )
    identical = all(seed.identical for seed in seeds)
    known = all(seed.differences for seed in seeds)
    close = known and all(
        abs(value) <= TOLERANCE.get(name.split(".")[0], 0.0)
        for seed in seeds
        for name, value in seed.differences.items()
    )
    return RerunReport(
        ok=identical or (bool(differences) and close),
        run=run,
        rerun=rerun,
        same_platform=not differences,
        platform_differences=differences,
        identical=identical,
        compared_by="bits or held-out metrics" if known else "bits",
        tolerance=TOLERANCE if differences else {},
        seeds=seeds,
    )


def platform_differences(before: Provenance, after: Provenance) -> tuple[str, ...]:
    """Return differences that may change bits: processor capability, threads, versions, code."""
    pairs = {
        "architecture": (before.machine.architecture, after.machine.architecture),
        "cpu_capability": (before.cpu_capability, after.cpu_capability),
        "threads": (before.threads, after.threads),
        "device": (before.device, after.device),
        "torch": (before.packages.get("torch"), after.packages.get("torch")),
        "numpy": (before.packages.get("numpy"), after.packages.get("numpy")),
        "kd_offline": (before.kd_offline, after.kd_offline),
        "code": (before.git_revision, after.git_revision),
    }
    return tuple(f"{name}: {a} and {b}" for name, (a, b) in pairs.items() if a != b)


def _differences(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in before if name in after}
