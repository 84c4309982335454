"""How often ``verify --audit`` finds poison in datasets that hold none.

Fresh datasets are recorded with the bundled experts, one kind after the other, and audited. A line
of the results file is kept for each, so that a later call continues where this one stopped. Printed
are the alarms of each kind and of all, with an upper bound at 95 % (Clopper and Pearson) of the
rate of alarms.

    python -m benchmarks.false_alarms --datasets 320 --keep docs/results/false-alarms.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scipy.stats import beta

from kd_offline.datasets import merge
from kd_offline.datasets.analysis.poison import audit_dataset
from kd_offline.recording.record import record

FIRST_SEED = 700_000
Make = Callable[[Path, int], object]


def recording(name: str, episodes: int, **settings: Any) -> Make:
    """Return what records a dataset of an environment in a folder, by a seed."""

    def make(path: Path, seed: int) -> object:
        return record(name, path, episodes=episodes, seed=seed, threads=1, **settings)

    return make


def merged(name: str, episodes: int) -> Make:
    """Return what merges a recording with noise and a shorter one without, in a folder."""

    def make(path: Path, seed: int) -> object:
        parts = [path.with_name(f"{part}.zarr") for part in ("noisy", "plain")]
        recording(name, episodes)(parts[0], seed)
        recording(name, episodes // 2, noise_mixture="none", partner="none")(parts[1], seed + 1)
        return merge(parts, path)

    return make


KINDS: Mapping[str, Make] = {
    "mpe/simple_spread_v3": recording("mpe/simple_spread_v3", 400),
    "mpe/simple_speaker_listener_v4": recording("mpe/simple_speaker_listener_v4", 400),
    "mpe/simple_adversary_v3": recording("mpe/simple_adversary_v3", 400),
    "mpe/simple_spread_v3, two recordings": merged("mpe/simple_spread_v3", 300),
    "smax/3m": recording("smax/3m", 300),
    "smax/5m_vs_6m": recording("smax/5m_vs_6m", 200),
}
# Recorded only in every so many rounds of all kinds, as battles take ten times as long.
EVERY = {"smax/3m": 2, "smax/5m_vs_6m": 4}


def main() -> None:
    """Record and audit what is missing, and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=320)
    parser.add_argument("--keep", type=Path, default=Path("docs/results/false-alarms.jsonl"))
    given = parser.parse_args()
    there = [json.loads(line) for line in lines(given.keep)]
    done = {(row["kind"], row["seed"]) for row in there}
    with given.keep.open("a", encoding="utf-8") as kept:
        for kind, seed in itertools.islice(plan(), given.datasets):
            if (kind, seed) not in done:
                row = {"kind": kind, "seed": seed, **audited(KINDS[kind], seed)}
                print(json.dumps(row), file=kept, flush=True)
                there.append(row)
    whole = {kind: [row for row in there if row["kind"] == kind] for kind in KINDS}
    for kind, rows in {**whole, "all": there}.items():
        alarms = sum(not row["ok"] for row in rows)
        most = float(beta.ppf(0.95, alarms + 1, len(rows) - alarms)) if alarms < len(rows) else 1.0
        print(f"{kind}: {alarms} alarms in {len(rows)} datasets, at most {most:.2%}")


def lines(path: Path) -> list[str]:
    """Return the lines that were kept; none where there is no file."""
    return path.read_text("utf-8").splitlines() if path.is_file() else []


def plan() -> itertools.chain[tuple[str, int]]:
    """Return kinds and seeds without end, all kinds in turn."""
    rounds = (
        [(kind, FIRST_SEED + 2 * turn) for kind in KINDS if turn % EVERY.get(kind, 1) == 0]
        for turn in itertools.count()
    )
    return itertools.chain.from_iterable(rounds)


def audited(make: Make, seed: int) -> dict[str, Any]:
    """Record a dataset, audit it, and return what the audit said."""
    root = Path(tempfile.mkdtemp())
    try:
        make(root / "dataset.zarr", seed)
        report = audit_dataset(root / "dataset.zarr")
    finally:
        shutil.rmtree(root)
    tests = {name: check.tests for name, check in report.checks.items()}
    found = [finding.check for finding in report.findings]
    return {"ok": report.ok, "found": found, "decisions": report.decisions, "tests": tests}


if __name__ == "__main__":
    main()
