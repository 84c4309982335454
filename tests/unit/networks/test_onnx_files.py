"""ONNX files of strangers: nothing but the file itself is opened, and only ONNX's own operators."""

import numpy as np
import pytest

from kd_offline.errors import CheckpointError, StorageError
from kd_offline.networks.onnx_files import (
    check_model,
    embed_weights,
    external_file_names,
    external_files,
    read_model,
)

onnx = pytest.importorskip("onnx")
FLOAT = 1


def model(*, location=None, domain="", inside="initializer", function=False):
    """Return a model that adds a constant, which may lie in another file or in a subgraph."""
    helper = onnx.helper
    tensor = onnx.numpy_helper.from_array(np.ones(2, np.float32), "c")
    if location is not None:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    nodes = [helper.make_node("Add", ["x", "c"], ["y"], domain=domain)]
    if inside == "attribute":
        nodes.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))
    if inside == "subgraph":
        body = helper.make_graph(
            [helper.make_node("Constant", [], ["c"], value=tensor)], "body", [], []
        )
        nodes.insert(0, helper.make_node("If", ["x"], ["c"], then_branch=body, else_branch=body))
    ports = [helper.make_tensor_value_info(name, FLOAT, [2]) for name in "xy"]
    kept = [tensor] if inside == "initializer" else []
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], kept)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(domain or "other", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    if function:
        made.functions.append(helper.make_function("other", "f", [], [], [], opsets[:1]))
    return made


def test_a_whole_model_passes(tmp_path):
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    found = read_model(tmp_path / "m.onnx")
    assert external_file_names(found) == set()
    assert external_files(tmp_path / "m.onnx", found) == []
    check_model(tmp_path / "m.onnx", found)


@pytest.mark.parametrize("inside", ["initializer", "attribute", "subgraph"])
def test_weights_in_another_file_are_found_wherever_the_tensor_is(inside, tmp_path):
    made = model(location="../../etc/passwd", inside=inside)
    assert external_file_names(made) == {"../../etc/passwd"}
    with pytest.raises(CheckpointError, match=r"needs the file '\.\./\.\./etc/passwd'"):
        check_model(tmp_path / "m.onnx", made)


@pytest.mark.parametrize("kind", [{"domain": "com.evil"}, {"function": True}])
def test_operators_and_functions_of_others_are_refused(kind, tmp_path):
    with pytest.raises(CheckpointError, match="which no policy in one file does"):
        check_model(tmp_path / "m.onnx", model(**kind))


def test_a_step_of_ours_has_no_loop_that_may_never_end(tmp_path):
    with pytest.raises(CheckpointError, match="needs a loop or a branch"):
        check_model(tmp_path / "m.onnx", model(inside="subgraph"))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/b", "\\\\host\\x", "..", ".", "", "absent", "link"]
)
def test_weights_of_an_expert_lie_beside_it_or_nowhere(name, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match="which is no file beside it"):
        external_files(tmp_path / "m.onnx", model(location=name))


def apart(tmp_path, copies=1, **entries):
    """Return a model whose weights lie beside it, behind four other bytes."""
    made = model(location="m.data")
    (tmp_path / "m.data").write_bytes(bytes(4) + np.array([5, 6], np.float32).tobytes())
    for key, value in ({"offset": "4", "length": "8"} | entries).items():
        made.graph.initializer[0].external_data.add(key=key, value=value)
    made.graph.initializer.extend([made.graph.initializer[0]] * (copies - 1))
    return made


@pytest.mark.parametrize("length", ["8", "0"])
def test_weights_beside_an_expert_become_its_own(length, tmp_path):
    made = apart(tmp_path, length=length)
    assert embed_weights(tmp_path / "m.onnx", made) == [tmp_path / "m.data"]
    check_model(tmp_path / "m.onnx", made)
    kept = onnx.numpy_helper.to_array(made.graph.initializer[0])
    assert kept.tolist() == [5, 6]


@pytest.mark.parametrize(
    "entry", [{"length": "9"}, {"offset": "9"}, {"length": "-1"}, {"copies": 2}]
)
def test_more_weights_than_the_file_beside_it_holds_are_refused(entry, tmp_path):
    with pytest.raises(CheckpointError, match=r"claims more weights than 'm\.data' holds"):
        embed_weights(tmp_path / "m.onnx", apart(tmp_path, **entry))


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="it is no such file"):
        read_model(tmp_path / "m.onnx")
    (tmp_path / "l.onnx").symlink_to(tmp_path / "m.onnx")
    with pytest.raises(StorageError, match="cannot read"):
        read_model(tmp_path / "l.onnx")
