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
    image = np.zeros((1, 3, 4, 4), np.float32)
    tasks = [(session, image) for session in sessions]
    found = layers.rounds(tasks, FakeClock(slow + fast), evict=64)
    assert [session.calls for session in sessions] == [layers.ROUNDS + 1] * 3
    assert found.shape == (layers.ROUNDS, 3)
    assert found == pytest.approx(np.ones((layers.ROUNDS, 3)))


def test_a_wider_layer_takes_longer(tmp_path):
    shape = LayerShape(kind="conv", height=28, width=28, kernel=(3, 3), pads=(1, 1, 1, 1))
    files = []
    for width in (8, 256):
        files.append(tmp_path / f"{width}.onnx")
        probes.layer(shape, width, 128, files[-1])
    spot = layers.Spot("onnxruntime", "cpu", 1, evict=1 << 20)
    found = layers.times([files, files[:1]], files[0], spot)
    assert [len(row) for row in found] == [2, 1]
    assert found[0][1] > 3 * found[0][0]


class Weather:
    """What a machine shows that is so slow in one row after the other."""

    def __init__(self, *speeds):
        self.speeds, self.timed = list(speeds), []

    def __call__(self, row):
        slow = self.speeds.pop(0)
        self.timed.append(row[0])
        return 0.2 * slow, [slow * float(path) for path in row]


@pytest.mark.parametrize(
    ("speeds", "found", "again"),
    [
        ((1.0, 1.04, 1.0), [[1.0], [2.08], [4.0]], ""),  # a quiet machine
        ((1.0, 1.45, 1.5, 1.0, 1.45, 1.02), [[1.0], [2.0], [4.08]], "244"),  # bursts
        ((1.45, 1.45, 1.0, 1.01, 1.4, 1.0), [[1.01], [2.0], [4.0]], "122"),  # quiet in the end
        ((1.0, 1.0, *(1.5 - 0.01 * turn for turn in range(6))), [[1.0], [2.0], [5.8]], "44444"),
    ],
)
def test_rows_are_timed_again_that_were_timed_on_a_busy_machine(speeds, found, again):
    weather = Weather(*speeds)
    assert layers.calm([["1"], ["2"], ["4"]], weather) == [pytest.approx(row) for row in found]
    assert "".join(weather.timed[3:]) == again
    assert not weather.speeds


def test_what_rows_took_themselves_picks_nothing():
    """Else every layer would be as fast as its luckiest measurement."""
    seen = iter([(0.2, [5.0]), (0.3, [3.0]), (0.3, [1.0]), (0.2, [7.0])])
    assert layers.calm([["a"], ["b"]], lambda row: next(seen)) == [[5.0], [7.0]]


def test_what_a_runtime_refuses_comes_through(tmp_path):
    probes.chain(1, tmp_path / "chain.onnx")
    graph = tmp_path / "chain.onnx"
    with pytest.raises(ConfigError, match="nosuch"):
        layers.times([[graph]], graph, layers.Spot("nosuch", "cpu", 1, evict=0))
    with pytest.raises(MissingDeviceError, match="no such device"):
        layers.times([[graph]], graph, layers.Spot("onnxruntime", "npu", 1, evict=0))


def test_a_missing_runtime_keeps_its_line_and_its_code(tmp_path, monkeypatch):
    graph = tmp_path / "chain.onnx"
    probes.chain(1, graph)
    # The child looks here first, and finds what a machine without OpenVINO finds: an ImportError.
    (tmp_path / "openvino.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingError, match="openvino is not installed") as stopped:
        layers.times([[graph]], graph, layers.Spot("openvino", "cpu", 1, evict=0))
    assert stopped.value.exit_code == 3
