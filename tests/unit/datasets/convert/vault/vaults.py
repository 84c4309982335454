"""Vaults as others write them, made with TensorStore alone."""

import json

import numpy as np
import tensorstore as ts

STEPS, AGENTS, WIDTH, ACTIONS = 30, 3, 4, 5


def leaves(streams=1, steps=STEPS, seed=0):
    """What OG-MARL stores: [B, T, ...]; an episode ends every ten steps."""
    rng = np.random.default_rng(seed)
    shape = (streams, steps, AGENTS)
    ended = np.broadcast_to((np.arange(steps) % 10 == 9)[:, None], shape)
    return {
        "observations": rng.standard_normal((*shape, WIDTH)).astype(np.float32),
        "actions": rng.integers(0, ACTIONS, shape).astype(np.int32),
        "rewards": rng.standard_normal(shape).astype(np.float32),
        "terminals": ended.copy(),
        "truncations": np.zeros(shape, bool),
        "infos/legals": np.ones((*shape, ACTIONS), bool),
        "infos/state": rng.standard_normal((streams, steps, 7)).astype(np.float32),
    }


def store(folder, key, shape, dtype):
    return ts.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": f"file://{folder}/", "path": key},
            "metadata": {"compressor": {"id": "gzip", "level": 5}},
        },
        shape=shape,
        dtype=dtype,
        create=True,
    ).result()


def write_vault(folder, arrays, version=1.2):
    folder.mkdir(parents=True)
    shapes: dict = {}
    dtypes: dict = {}
    for name, values in arrays.items():
        made = store(
            folder,
            name.replace("/", ".") + ".",
            (values.shape[0], 10**13, *values.shape[2:]),
            values.dtype.name,
        )
        made[:, : values.shape[1]].write(values).result()
        head, _, rest = name.partition("/")
        for tree, text in ((shapes, str(values.shape)), (dtypes, values.dtype.name)):
            if rest:
                tree.setdefault(head, {})[rest] = text
            else:
                tree[head] = text
    index = store(folder, "vault_index", (1,), "int32")
    index.write(np.array([next(iter(arrays.values())).shape[1]], np.int32)).result()
    document = {"version": version, "structure_shape": shapes, "structure_dtype": dtypes}
    (folder / "metadata.json").write_text(json.dumps(document))
    return folder
