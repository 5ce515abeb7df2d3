"""Facts of an ONNX file, read without onnx, agree with onnx; damage is refused."""

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from capdeploy import graphfile
from capdeploy.bench import sides
from capdeploy.errors import ConfigError, UsageError


def graph(path, *, inputs=(None, 3, 8, 8), stored_as_input=False):
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("ReduceMean", ["y", "axes"], ["z"]),
    ]
    names = [None if size is None else size for size in inputs]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, names)]
    if stored_as_input:
        values.insert(0, helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 1, 1]))
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", values, [output], [weight, axes]),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("other", 3)],
    )
    onnx.save(model, path)
    return model


def test_facts_are_those_that_onnx_reads(tmp_path):
    for stored_as_input in (False, True):
        model = graph(tmp_path / "m.onnx", stored_as_input=stored_as_input)
        found = graphfile.read(tmp_path / "m.onnx")
        assert found.opset == 18
        assert found.nodes == len(model.graph.node) == 2
        assert found.parameters == 12  # the axes are no parameters
        assert found.input_shape == (None, 3, 8, 8)
        assert found.size_bytes == (tmp_path / "m.onnx").stat().st_size


def test_the_default_domain_may_be_named(tmp_path):
    model = graph(tmp_path / "m.onnx")
    model.opset_import[0].domain = "ai.onnx"
    onnx.save(model, tmp_path / "m.onnx")
    assert graphfile.read(tmp_path / "m.onnx").opset == 18


def test_a_bundle_s_graph_is_read_as_its_manifest_says(run):
    from capdeploy import bundle

    opened = bundle.read(run.bundle)
    found = graphfile.read(opened.path(bundle.GRAPH))
    artifact = opened.manifest.artifact
    assert (found.opset, found.nodes) == (artifact.opset, artifact.nodes)
    assert found.input_shape == (None, 3, 16, 16)
    # Batch normalisation is folded into the graph's convolutions.
    assert found.parameters <= opened.manifest.cost.parameters


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 64, b"<!DOCTYPE html><html>", b"PK\x03\x04rest", b"\xff" * 40]
)
def test_what_is_no_graph_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not an ONNX model") as raised:
        graphfile.read(path)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        graphfile.read(tmp_path / "none.onnx")


def test_a_truncated_graph_is_refused(tmp_path):
    graph(tmp_path / "m.onnx")
    whole = (tmp_path / "m.onnx").read_bytes()
    for length in range(1, len(whole) - 20, 7):
        (tmp_path / "t.onnx").write_bytes(whole[:length])
        with pytest.raises(ConfigError):
            graphfile.read(tmp_path / "t.onnx")


@given(st.binary(max_size=300))
def test_noise_never_does_worse_than_a_refusal(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("g") / "m.onnx"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        graphfile.read(path)


def test_weights_that_lie_beside_the_graph_count(tmp_path):
    """As torch's exporter writes them: the graph alone says nothing of its size or content."""
    model = graph(tmp_path / "whole.onnx")
    for name, value in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        model.graph.initializer[0].raw_data = np.full(12, value, np.float32).tobytes()
        onnx.save(
            model, tmp_path / name / "m.onnx", save_as_external_data=True, location="m.data",
            size_threshold=0, convert_attribute=False,
        )  # fmt: skip
        model = onnx.load(tmp_path / name / "m.onnx")
    found, other = (graphfile.read(tmp_path / name / "m.onnx") for name in ("one", "two"))
    assert found.files == (tmp_path / "one" / "m.onnx", tmp_path / "one" / "m.data")
    assert found.size_bytes == sum(path.stat().st_size for path in found.files)
    assert found.parameters == 12
    assert sides.side(found).sha256 != sides.side(other).sha256
    assert (tmp_path / "one" / "m.onnx").read_bytes() == (tmp_path / "two" / "m.onnx").read_bytes()
    (tmp_path / "one" / "m.data").unlink()
    with pytest.raises(UsageError, match=r"m.onnx: its weights are in .*m.data, which is not"):
        graphfile.read(tmp_path / "one" / "m.onnx")
