"""Small ONNX files that claim much: refused before a runtime allocates or computes anything."""

import numpy as np
import pytest
import torch

from kd_offline.errors import CheckpointError
from kd_offline.networks.onnx_files import MAX_NODES, read_model
from kd_offline.networks.onnx_session import BoundedSession

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
HUGE = 10**12


@pytest.fixture(autouse=True)
def no_huge_session(monkeypatch):
    """Fail, rather than fill the machine, where something is about to be run that is refused."""
    made = onnxruntime.InferenceSession

    def refuse(data, *rest, **extra):
        model = onnx.load_model_from_string(data)
        if model.graph.name == "bad":
            pytest.fail("a runtime was given the model")
        return made(data, *rest, **extra)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)


def model(*nodes, weights=(), width=4, name="bad", **ports):
    """Return a model of ``nodes`` from ``obs`` [rows, width] to ``logits``."""
    kept = [numpy_helper.from_array(np.asarray(value), key) for key, value in weights]
    inputs = {"obs": ("rows", width)} | ports
    graph = helper.make_graph(
        [helper.make_node(op, read, made, **extra) for op, read, made, extra in nodes],
        name,
        [helper.make_tensor_value_info(key, FLOAT, shape) for key, shape in inputs.items()],
        [helper.make_tensor_value_info("logits", FLOAT, None)],
        kept,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op, read, made="logits", **extra):
    return op, read.split(), made.split(), extra


def opened(made, tmp_path, **shapes):
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    read = read_model(tmp_path / "m.onnx")
    return BoundedSession(tmp_path / "m.onnx", read, {"obs": (1, 4)} | shapes)


def i64(*values):
    return np.array(values, np.int64)


def f32(*shape):
    return np.ones(shape, np.float32)


GRU = {"w": f32(1, 3, 1), "r": f32(1, 3, 1)}
CLAIMS = {
    "constant of a shape": model(
        node("ConstantOfShape", "n", "c"), node("Add", "obs c"), weights=[("n", i64(HUGE, 4))]
    ),
    "expand": model(node("Expand", "obs n"), weights=[("n", i64(HUGE, 4))]),
    "tile": model(node("Tile", "obs n"), weights=[("n", i64(HUGE, 1))]),
    "tile beyond 64 bits": model(node("Tile", "obs n"), weights=[("n", i64(1 << 62, 16))]),
    "one hot": model(
        node("Cast", "obs", "k", to=INT),
        node("OneHot", "k n v"),
        weights=[("n", i64(HUGE)), ("v", f32(2))],
    ),
    "gather": model(
        node("ConstantOfShape", "n", "k", value=helper.make_tensor("v", INT, [1], [0])),
        node("Gather", "w k"),
        weights=[("n", i64(4000)), ("w", f32(1, 9000))],
    ),
    "outer product": model(
        node("ConstantOfShape", "n", "a"),
        node("Transpose", "a", "b"),
        node("MatMul", "b a"),
        weights=[("n", i64(1, 100_000))],
    ),
    "broadcast": model(
        node("ConstantOfShape", "n", "a"),
        node("Transpose", "a", "b"),
        node("Add", "b a"),
        weights=[("n", i64(1, 100_000))],
    ),
    "matrices that are multiplied again and again": model(
        node("ConstantOfShape", "n", "x0"),
        *(node("MatMul", f"x{k} x0", f"x{k + 1}") for k in range(50)),
        node("ReduceSum", "x50"),
        weights=[("n", i64(500, 500))],
    ),
    "a large value that is read again and again": model(
        node("ConstantOfShape", "n", "x"),
        *(node("ReduceMax", "x", f"y{k}") for k in range(1000)),
        node("Max", " ".join(f"y{k}" for k in range(1000))),
        weights=[("n", i64(8_000_000))],
    ),
    "many values that are large together": model(
        *(node("ConstantOfShape", "n", f"x{k}") for k in range(20)),
        node("Max", " ".join(f"x{k}" for k in range(20))),
        weights=[("n", i64(1_000_000))],
    ),
    "a size from a chain of sums": model(
        node("Mul", "n n", "m"),
        node("Mul", "m m", "k"),
        node("Expand", "one k"),
        weights=[("n", i64(10_000)), ("one", f32(1))],
    ),
    "padding of a convolution": model(
        node("Reshape", "obs n", "x"),
        node("Conv", "x w", pads=[1 << 20] * 4),
        weights=[("n", i64(-1, 1, 2, 2)), ("w", f32(1, 1, 1, 1))],
    ),
    "steps of a recurrent network": model(
        node("ConstantOfShape", "n", "x"),
        node("GRU", "x w r", "y", hidden_size=1),
        node("Identity", "y"),
        weights=[("n", i64(16_000_000, 1, 1)), *GRU.items()],
    ),
    "a reshape to a size that does not fit": model(
        node("Reshape", "obs n"), weights=[("n", i64(HUGE, 4))]
    ),
}


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_a_small_file_that_claims_large_values_is_refused(claim, tmp_path):
    made = CLAIMS[claim]
    assert len(made.SerializeToString()) < 120_000
    with pytest.raises(CheckpointError, match=r"account for|cannot be told"):
        opened(made, tmp_path)


@pytest.mark.parametrize(
    "op", ["Range", "NonZero", "Loop", "Scan", "If", "Pad", "Resize", "Einsum"]
)
def test_operators_that_no_policy_needs_are_refused_by_name(op, tmp_path):
    with pytest.raises(CheckpointError, match=f"needs operator {op}"):
        opened(model(node(op, "obs obs obs")), tmp_path)


def test_values_that_grow_faster_than_the_rows_are_refused_at_these_rows(tmp_path):
    grows = model(node("Transpose", "obs", "t"), node("MatMul", "obs t"), name="good")
    session = opened(grows, tmp_path)
    assert session.run(["logits"], {"obs": f32(500, 4)}, 500)[0].shape == (500, 500)
    with pytest.raises(CheckpointError, match="at operator MatMul"):
        session.run(["logits"], {"obs": f32(100_000, 4)}, 100_000)


def test_a_size_that_follows_from_the_rows_by_arithmetic_is_computed(tmp_path):
    made = model(
        node("Shape", "obs", "s"),
        node("Gather", "s k", "rows"),
        node("Sub", "rows many", "less"),
        node("Mul", "less less", "square"),
        node("Expand", "one square", "y"),
        node("ReduceMax", "y"),
        weights=[("k", i64(0)), ("many", i64(9_000)), ("one", f32(1))],
        name="good",
    )
    with pytest.raises(CheckpointError, match="at operator Expand"):
        opened(made, tmp_path)
    session = opened(made, tmp_path, obs=(9_003, 4))
    assert session.run(["logits"], {"obs": f32(9_003, 4)}, 9_003)[0] == 1


def test_an_input_that_goes_by_the_name_of_a_weight_is_no_known_number(tmp_path):
    made = model(
        node("Cast", "hidden", "n", to=INT),
        node("Expand", "one n"),
        weights=[("hidden", f32(1)), ("one", f32(1))],
        hidden=(1,),
    )
    with pytest.raises(CheckpointError, match="cannot be told before it runs"):
        opened(made, tmp_path, hidden=(1,))


def test_a_size_that_only_running_tells_is_refused(tmp_path):
    made = model(
        node("Cast", "obs", "i", to=INT), node("Reshape", "i n", "s"), node("Expand", "one s"),
        weights=[("n", i64(-1)), ("one", f32(1))],
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="cannot be told before it runs, at operator Expand"):
        opened(made, tmp_path)


@pytest.mark.parametrize("field", ["raw_data", "float_data", "nothing"])
def test_a_weight_that_claims_more_numbers_than_it_holds_is_refused(field, tmp_path):
    made = model(node("Add", "obs w"), weights=[("w", f32(4))])
    weight = made.graph.initializer[0]
    weight.dims[:] = [HUGE, 4]
    if field != "raw_data":
        weight.ClearField("raw_data")
    if field == "float_data":
        weight.float_data.extend([1.0] * 4)
    with pytest.raises(CheckpointError, match=r"has the shape \[1000000000000, 4\], and holds"):
        opened(made, tmp_path)


def test_a_sparse_weight_of_a_huge_shape_is_refused(tmp_path):
    made = model(node("Add", "obs w"))
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(f32(1), "w"), numpy_helper.from_array(i64(0)), [HUGE]
        )
    )
    with pytest.raises(CheckpointError, match="needs a sparse tensor"):
        opened(made, tmp_path)


def test_a_model_of_very_many_operators_is_refused_by_their_number(tmp_path):
    made = model(*(node("Relu", "obs", f"y{k}") for k in range(MAX_NODES + 1)))
    with pytest.raises(CheckpointError, match="has 4,097 operators, more than 4,096"):
        opened(made, tmp_path)


def test_a_setting_that_leaves_64_bits_is_refused(tmp_path):
    made = model(node("Conv", "obs w", pads=[1 << 62] * 4), weights=[("w", f32(1, 1, 1, 1))])
    with pytest.raises(CheckpointError, match="needs such a setting of operator Conv"):
        opened(made, tmp_path)


def test_a_file_that_a_runtime_takes_for_another_format_is_read_as_what_was_checked(tmp_path):
    made = model(node("Relu", "obs"), name="good")
    made.producer_name = "ORTM"
    data = made.SerializeToString(deterministic=True)
    assert data[4:8] == b"ORTM"
    session = opened(made, tmp_path)
    assert session.run(["logits"], {"obs": -f32(2, 4)}, 2)[0].tolist() == [[0] * 4] * 2


@pytest.mark.parametrize("opsets", [[], [17, 18]])
def test_a_model_of_no_version_or_of_two_is_refused(opsets, tmp_path):
    made = model(node("Relu", "obs"))
    del made.opset_import[:]
    for domain, version in zip(("", "ai.onnx"), opsets, strict=False):
        made.opset_import.append(helper.make_opsetid(domain, version))
    with pytest.raises(CheckpointError, match="several versions of operators, or none"):
        opened(made, tmp_path)


def test_what_fails_while_it_runs_is_said_in_a_sentence(tmp_path):
    session = opened(model(node("Relu", "obs"), name="good"), tmp_path)
    with pytest.raises(CheckpointError, match="cannot be run"):
        session.run(["absent"], {"obs": f32(1, 4)}, 1)


def policy(kind):
    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = torch.nn.Linear(4, 64), torch.nn.LayerNorm(64)
            self.cell, self.head = torch.nn.GRU(64, 64), torch.nn.Linear(64, 5)

        def forward(self, obs, hidden):
            x = torch.relu(self.norm(self.first(obs)))
            y, after = self.cell(x.unsqueeze(0), hidden)
            return self.head(y[0]), after

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = torch.nn.Linear(1, 16), torch.nn.Linear(16, 5)
            self.attend = torch.nn.MultiheadAttention(16, 2, batch_first=True)
            self.see = torch.nn.Conv2d(1, 8, 3, padding=1)

        def forward(self, obs):
            x = self.first(obs.unsqueeze(-1))
            seen = torch.relu(self.see(obs.view(-1, 1, 2, 2))).flatten(1)
            return self.head(self.attend(x, x, x)[0].mean(1)) + seen[:, :5]

    return Recurrent() if kind == "recurrent" else Attention()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["recurrent", "attention"])
def test_policies_that_pytorch_exports_run_at_any_number_of_rows(kind, tmp_path):
    network = policy(kind).eval()
    fed = {"obs": torch.zeros(2, 4)}
    axes = {"obs": {0: "rows"}, "logits": {0: "rows"}}
    if kind == "recurrent":
        fed["hidden"] = torch.zeros(1, 2, 64)
        axes["hidden"] = {1: "rows"}
    outputs = ["logits", "hidden_next"][: len(fed)]
    torch.onnx.export(
        network, tuple(fed.values()), tmp_path / "p.onnx", input_names=list(fed),
        output_names=outputs, dynamic_axes=axes, dynamo=False, opset_version=17,
    )  # fmt: skip
    read = read_model(tmp_path / "p.onnx")
    least = {"obs": (1, 4)} | ({"hidden": (1, 1, 64)} if kind == "recurrent" else {})
    session = BoundedSession(tmp_path / "p.onnx", read, least)
    for rows in (1, 7, 3000):
        obs = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        given = {"obs": obs} | ({"hidden": f32(1, rows, 64)} if kind == "recurrent" else {})
        with torch.inference_mode():
            said = network(*(torch.from_numpy(x) for x in given.values()))
        wanted = said[0] if kind == "recurrent" else said
        found = session.run(["logits"], given, rows)[0]
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)
