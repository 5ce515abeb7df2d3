"""Small graphs are timed in turns, cold, in a process of their own."""

import numpy as np
import pytest

from capdeploy.bench import layers
from capdeploy.bench.clock import FakeClock
from capdeploy.errors import ConfigError, MissingDeviceError, MissingError
from capdeploy.export import probes
from capdeploy.values.latency import LayerShape


class Counted:
    effective = {}  # noqa: RUF012

    def __init__(self):
        self.calls = 0

    def run(self, batch):
        self.calls += 1
        return batch

    def close(self):
        pass


def test_every_session_runs_once_a_round_and_the_first_round_does_not_count():
    sessions = [Counted() for _ in range(3)]
    # Each reading of the clock adds a step; a call lasts from its first reading to its second.
    slow, fast = [1, 100_000_000] * 3, [1, 1_000_000] * 3 * layers.ROUNDS
    found = layers.rounds(
        sessions, np.zeros((1, 3, 4, 4), np.float32), FakeClock(slow + fast), evict=64
    )
    assert [session.calls for session in sessions] == [layers.ROUNDS + 1] * 3
    assert found.shape == (layers.ROUNDS, 3)
    assert found == pytest.approx(np.ones((layers.ROUNDS, 3)))


def test_a_wider_layer_takes_longer(tmp_path):
    shape = LayerShape(kind="conv", height=28, width=28, kernel=(3, 3), pads=(1, 1, 1, 1))
    files = []
    for width in (8, 256):
        files.append(tmp_path / f"{width}.onnx")
        probes.layer(shape, width, 128, files[-1])
    found = layers.times([files, files[:1]], runtime="onnxruntime", device="cpu", threads=1,
                         evict=1 << 20)  # fmt: skip
    assert [len(row) for row in found] == [2, 1]
    assert found[0][1] > 3 * found[0][0]


def test_what_a_runtime_refuses_comes_through(tmp_path):
    probes.chain(1, tmp_path / "chain.onnx")
    at = {"device": "cpu", "threads": 1, "evict": 0}
    with pytest.raises(ConfigError, match="nosuch"):
        layers.times([[tmp_path / "chain.onnx"]], runtime="nosuch", **at)
    with pytest.raises(MissingDeviceError, match="no such device"):
        layers.times([[tmp_path / "chain.onnx"]], runtime="onnxruntime", **at | {"device": "npu"})


def test_a_missing_runtime_keeps_its_line_and_its_code(tmp_path, monkeypatch):
    probes.chain(1, tmp_path / "chain.onnx")
    # The child looks here first, and finds what a machine without OpenVINO finds: an ImportError.
    (tmp_path / "openvino.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingError, match="openvino is not installed") as stopped:
        layers.times([[tmp_path / "chain.onnx"]], runtime="openvino", device="cpu", threads=1,
                     evict=0)  # fmt: skip
    assert stopped.value.exit_code == 3
