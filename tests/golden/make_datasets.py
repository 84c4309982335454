"""Makes golden datasets: ``python -m tests.golden.make_datasets``; what is there is never remade.

A dataset of the format as it was when it was committed must open for ever. So a file that cannot
be read any more is a mistake in the reader, and a new kind of content is a new dataset here.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from kd_offline.datasets import DatasetWriter, EpisodeBlock, ExpertBuffer
from kd_offline.datasets.format import layout
from kd_offline.schemas.dataset import Capture, ExpertRecord, LineageRecord, MaskRecord
from kd_offline.sealed_json import seal
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header

DATA = Path(__file__).parent / "data"
EXPECTED = "expected.json"


def ragged(path):
    """Agents of different widths that come and go, a state, several taps, masks of both kinds."""
    spec = environment_spec((6, 3, 5), (5, 2, 4), state_width=7)
    rng = np.random.default_rng(1)
    block = episode_block(spec, [9, 25, 1, 14], seed=1, hidden=3)
    rows = len(block.steps["alive"])
    block.steps["alive"][:, 2] = np.arange(rows) % 5 != 4
    block.steps["embedding_trunk"] = rng.random((rows, 3, 2)).astype(np.float32)
    block.episodes["won"] = np.array([1, 0, -1, 1], np.int8)
    everything = full_mask(spec)
    masks = {"full": everything, "random-k": (rng.random((4, 3, 6)) < 0.5) & everything}
    head = header(spec, seed=1).model_copy(
        update={
            "name": "golden/ragged",
            "description": "ragged agents \u2013 gefährlich für Leser \U0001f9ea",
            "citation": "@misc{golden, title={Ragged}}",
            "masks": {
                "full": MaskRecord(description="everything"),
                "random-k": MaskRecord(description="another half each time", random_k=3),
            },
            "heldout": 0.25,
        }
    )
    write(path, head, block, masks)


def values(path):
    """An expert that gives action values: no logits, no log-probabilities, no final row."""
    spec = environment_spec((4, 4), (3, 3), episode_limit=12)
    rng = np.random.default_rng(2)
    without = [name for name in layout.RULES if name.startswith("final/")]
    without += ["steps/logits", "steps/behaviour_logprob", "steps/value"]
    block = episode_block(
        spec, [12, 7, 12], seed=2, hidden=5, embedding_dtype="float32", without=without
    )
    block.steps["q_values"] = rng.standard_normal((31, 2, 3)).astype(np.float32)
    block.episodes["expert_id"] = np.array([0, 7, 7], np.int16)
    experts = [
        ExpertRecord(
            id=number,
            kind="vdn",
            reference="trained",
            parameters=10,
            digest=f"sha256:{number:064x}",
            capture=Capture(output="q_values", embedding="last hidden layer"),
            gamma=0.97,
        )
        for number in (0, 7)
    ]
    parent = LineageRecord(operation="merge", parents=("sha256:" + "1" * 64, "sha256:" + "2" * 64))
    head = header(spec, seed=2, masks=()).model_copy(
        update={"name": "golden/values", "experts": tuple(experts), "lineage": (parent,)}
    )
    write(path, head, block, {})


def mixed(path):
    """Format 1.1: the values of a team, mixed by adding; one agent is gone at times."""
    spec = environment_spec((4, 4), (3, 3), episode_limit=12)
    rng = np.random.default_rng(4)
    without = ["steps/logits", "steps/behaviour_logprob"]
    block = episode_block(spec, [12, 7, 12], seed=4, hidden=2, without=without)
    steps = block.steps
    steps["alive"][:, 1] = np.arange(31) % 4 != 3
    steps["q_values"] = rng.standard_normal((31, 2, 3)).astype(np.float32)
    legal = np.where(steps["available_actions"], steps["q_values"], -np.inf)
    taken = np.take_along_axis(steps["q_values"], steps["actions"][..., None], -1)[..., 0]
    steps["q_tot"] = (taken * steps["alive"]).sum(-1)
    steps["q_tot_max"] = (legal.max(-1) * steps["alive"]).sum(-1)
    steps["mixer_credit"] = steps["alive"].astype(np.float32)
    steps["value"] = steps["q_tot_max"][:, None].repeat(2, axis=1)
    block.final["q_tot_max"] = block.final["value"][:, 0]
    expert = ExpertRecord(
        id=0,
        kind="vdn",
        reference="trained",
        parameters=10,
        digest="sha256:" + "3" * 64,
        architecture={"mixer": "vdn"},
        capture=Capture(output="q_values", embedding="last hidden layer"),
        gamma=0.97,
    )
    head = header(spec, seed=4, masks=()).model_copy(
        update={"name": "golden/mixed", "experts": (expert,)}
    )
    write(path, head, block, {})


def bare(path):
    """Only what the format demands, as an import of somebody's transitions leaves it."""
    spec = environment_spec((3,), (4,), episode_limit=6)
    must = {*layout.required_arrays("steps"), *layout.required_arrays("episodes")}
    block = episode_block(spec, [6, 2], seed=3, without=layout.RULES.keys() - must)
    head = header(spec, masks=()).model_copy(
        update={"name": "golden/bare", "experts": (), "licence": ""}
    )
    write(path, head, block, {})


def context(path):
    """Format 1.2: what readers compute with beside the arrays is part of the id."""
    spec = environment_spec((4, 3), (3, 2), episode_limit=12)
    block = episode_block(spec, [12, 7, 12], seed=5)
    expert = ExpertRecord(
        id=0,
        kind="mappo",
        reference="bundled",
        parameters=10,
        digest="sha256:" + "5" * 64,
        gamma=0.98,
        bootstraps_truncation=True,
    )
    head = header(spec, seed=5).model_copy(
        update={
            "name": "golden/context",
            "experts": (expert,),
            "masks": {"full": MaskRecord(description="everything", random_k=2)},
        }
    )
    write(path, head, block, {"full": full_mask(spec)})


def privileged(path):
    """Format 1.3: what agents of different widths would see with nothing hidden."""
    spec = environment_spec((4, 3), (3, 2), episode_limit=12, full_widths=(5, 9))
    block = episode_block(spec, [12, 7, 12], seed=6)
    head = header(spec, seed=6).model_copy(update={"name": "golden/privileged"})
    write(path, head, block, {"full": full_mask(spec)})


def newer(path):
    """Format 1.7: keys and an array that 1.0 does not know."""
    bare(path)
    document = json.loads((path / layout.MANIFEST).read_bytes())
    document.pop("manifest_digest")
    for file in ("zarr.json", "c/0/0"):
        old, new = path / "steps/reward" / file, path / "steps/surprise" / file
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(old.read_bytes())
        record = next(f for f in document["files"] if f["path"] == f"steps/reward/{file}")
        document["files"].append(record | {"path": f"steps/surprise/{file}"})
    document["arrays"]["steps/surprise"] = document["arrays"]["steps/reward"]
    document |= {"format_version": [1, 7], "mood": "curious"}
    document["recording"] |= {"weather": {"rain": True}}
    layout.update_identity(document)
    (path / layout.MANIFEST).write_bytes(seal(document))


MAKERS = {"ragged": ragged, "values": values, "bare": bare, "newer": newer, "mixed": mixed}
MAKERS |= {"context": context, "privileged": privileged}


def write(path, head, block, masks):
    """Write the episodes in two parts."""
    first = len(block.lengths) // 2
    cut = int(block.lengths[:first].sum())
    with DatasetWriter.create(path, head) as writer:
        for part, steps in ((slice(first), slice(cut)), (slice(first, None), slice(cut, None))):
            writer.append(
                EpisodeBlock(
                    {name: array[steps] for name, array in block.steps.items()},
                    {name: array[part] for name, array in block.final.items()},
                    {name: array[part] for name, array in block.episodes.items()},
                )
            )
        writer.commit(masks)


def expected(path):
    """Return what must be read from a dataset, now and for ever."""
    buffer = ExpertBuffer.open(path)
    return {
        "id": buffer.id,
        "manifest": buffer.manifest.manifest_digest,
        "arrays": {name: fingerprint(buffer.read(name)) for name in sorted(buffer.names)},
    }


def fingerprint(values):
    """Return type, shape, sha256 of the bytes, and the first value for a human eye."""
    plain = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    return {
        "dtype": values.dtype.name,
        "shape": list(values.shape),
        "sha256": hashlib.sha256(plain.tobytes()).hexdigest(),
        "first": values.reshape(-1)[0].item(),
    }


def main():
    """Make what is not there yet."""
    layout.MAX_CHUNK_ROWS = layout.MIN_CHUNK_ROWS = 16
    known = json.loads((DATA / EXPECTED).read_text()) if (DATA / EXPECTED).exists() else {}
    for name, make in MAKERS.items():
        if name not in known:
            make(DATA / f"{name}.zarr")
            known[name] = expected(DATA / f"{name}.zarr")
    (DATA / EXPECTED).write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
