"""Small untrained teams of every architecture, a recording, and a run folder of theirs."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from kd_offline.exports import parity_check
from kd_offline.exports.compact import compact
from kd_offline.exports.contract import contracts
from kd_offline.exports.engines import numpy_steps, team
from kd_offline.exports.network import to_int8
from kd_offline.runs.folder import create_run
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.run import DatasetReference, SeedResult
from kd_offline.schemas.student import StudentCard
from kd_offline.students import policy as students
from kd_offline.students.masks import Mask
from kd_offline.students.networks import InputScale
from kd_offline.testing.factories import environment_spec, full_mask, tiny_dataset
from kd_offline.testing.reports import run_manifest

SPEC = environment_spec((6, 4, 5), (5, 3, 4))
WIDTHS = (8, 6, 12)
ARM = ("make", "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")


def needs(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def partial_mask():
    """Agent 0 lacks its second block, agent 1 one feature in the middle, agent 2 everything."""
    seen = full_mask(SPEC)
    seen[0, 3:] = False
    seen[1, 1] = False
    seen[2] = False
    return seen


MASKS = {"full": full_mask(SPEC), "partial": partial_mask()}
DRAWN = Mask("drawn", None, 3, "", SPEC.obs_widths)


@dataclass(frozen=True)
class Kind:
    """One of the architectures that students can have."""

    arch: str = "gru"
    depth: int = 1
    aligner: str = "identity"
    motion: bool = False
    last_action: bool = False
    mask_as_input: bool = False
    mask: str = "partial"
    rank_share: float | None = None

    def __str__(self):
        rank = [] if self.rank_share is None else ["low-rank"]
        words = [self.arch, *rank, str(self.depth), self.aligner, self.mask]
        return "-".join(words + [n for n in ("motion", "last_action") if getattr(self, n)])


RICH = Kind(depth=2, aligner="linear", motion=True, last_action=True)
KINDS = [
    RICH,
    Kind("mlp", 0, mask="full"),
    Kind("mlp", 3, "linear", mask_as_input=True),
    Kind("mlp", 1, motion=True),
    Kind("gru", 0, "linear", last_action=True),
    Kind("gru", 0, motion=True, mask_as_input=True, mask="drawn"),
    Kind("gru", 1, "linear", last_action=True, mask_as_input=True, mask="drawn"),
    Kind("mlp", 2, motion=True, mask="drawn"),
    Kind("gru", 1, "linear", motion=True, rank_share=0.25),
    Kind("gru", 0, rank_share=0.5, mask="drawn"),
]


def card(kind, dataset, seeds=(0,)):
    seen = MASKS.get(kind.mask)
    return StudentCard(
        environment=SPEC,
        architecture=StudentArchitecture(
            kind=kind.arch, depth=kind.depth, aligner=kind.aligner, rank_share=kind.rank_share
        ),
        widths=WIDTHS,
        mask=kind.mask,
        mask_features=None if seen is None else tuple(tuple(map(bool, row)) for row in seen),
        random_k=DRAWN.random_k if kind.mask == "drawn" else None,
        mask_as_input=kind.mask_as_input,
        motion=kind.motion,
        last_action=kind.last_action,
        method="kl",
        dataset=dataset,
        seeds=seeds,
    )


def random_team(made_of, seed=0):
    """Return a team whose every number is random, normalisations and aligners too."""
    rng = np.random.default_rng(seed)
    made = students.build(made_of, rng)
    with torch.no_grad():
        for values in made.parameters():
            values.add_(torch.from_numpy(rng.normal(0, 0.3, values.shape).astype(np.float32)))
    shape = (SPEC.n_agents, SPEC.obs_width)
    scale = (rng.normal(size=shape), rng.uniform(0.3, 2, shape), rng.uniform(0.1, 1, shape))
    made.scale_inputs(InputScale(*scale))
    return made


def student(kind, dataset="sha256:" + "0" * 64, seed=0):
    made_of = card(kind, dataset)
    return students.StudentPolicy(made_of, seed, random_team(made_of, seed))


def exported(kind, *, int8=False):
    """Return a student, its networks, their contracts and the NumPy team."""
    policy = student(kind)
    networks = compact(policy)
    networks = tuple(to_int8(n) for n in networks) if int8 else networks
    agents = contracts(networks, SPEC)
    return policy, networks, agents, team(agents, numpy_steps(networks), policy.card.random_k)


def same(ours, theirs, episodes):
    """Check parity of two replays and return how they compare."""
    found = parity_check.compare(ours, theirs, episodes)
    parity_check.require_parity("tested", found)
    return found


@pytest.fixture(scope="session")
def buffer(tmp_path_factory):
    place = tmp_path_factory.mktemp("exports") / "dataset.zarr"
    lengths = [3 + 7 * i % 23 for i in range(60)]
    masks = dict(MASKS)
    return tiny_dataset(place, 60, lengths, spec=SPEC, masks=masks)


@pytest.fixture(scope="session")
def episodes(buffer):
    return parity_check.recorded(buffer, 100)


@pytest.fixture
def run(tmp_path, buffer):
    return make_run(tmp_path / "run", buffer, RICH)


def make_run(path, buffer, kind, seeds=(3, 4)):
    """Write a complete run folder of random teams."""
    made_of = card(kind, buffer.id, seeds)
    teams = [random_team(made_of, seed) for seed in seeds]
    results = tuple(
        SeedResult(seed=seed, digest=students.digest(made), updates=1, seconds=0.0)
        for seed, made in zip(seeds, teams, strict=True)
    )
    reference = DatasetReference(id=buffer.id, name="tiny", path=str(buffer.path))
    manifest = run_manifest(seeds=seeds).model_copy(
        update={
            "dataset": reference,
            "results": results,
            "mask": kind.mask,
            "method": made_of.method,
            "environment": SPEC.id,
            "environment_kwargs": SPEC.kwargs,
        }
    )
    folder = create_run(path, manifest)
    students.save(folder.students, made_of, teams)
    return folder
