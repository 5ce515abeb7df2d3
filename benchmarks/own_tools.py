"""Do capdeploy's latencies agree with the runtimes' own tools, interleaved on the same graph?

    python -m benchmarks.own_tools --bundle BUNDLE

OpenVINO's ``benchmark_app -hint latency`` and a bare ONNX Runtime loop, each in turns with a
worker of ``capdeploy bench``; one thread, pinned to one core. Prints the table of RESULTS.md:
the ratio capdeploy / tool, median and range. *By the same clock*: benchmark_app reports what
OpenVINO's own clock says, which starts inside the call; ours is the median of ``device_ms`` of
the row. *The whole call* is what a program waits for: input copied in, logits copied out, Python.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from capdeploy import bundle as bundles
from capdeploy import graphfile
from capdeploy.bench import child
from capdeploy.values.report import Measured, Settings

LOOP = """
import sys, time, statistics
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
entry = session.get_inputs()[0]
batch = np.random.default_rng(0).standard_normal((1, *entry.shape[1:]), dtype=np.float32)
stop = time.perf_counter() + float(sys.argv[2])
found = []
while time.perf_counter() < stop:
    start = time.perf_counter()
    session.run(None, {entry.name: batch})
    found.append(time.perf_counter() - start)
print(1000 * statistics.median(found[len(found) // 5:]))
"""


def pinned(command: list[str]) -> str:
    """Run a command on the first allowed core with one thread, and return what it prints."""
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        command, capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.stdout


def ours(bundle: Path, runtime: str, seconds: float) -> Measured:
    """Measure the bundle with capdeploy's own worker."""
    settings = Settings(bundle=bundle.name, runtime=runtime, device="cpu", threads=1)
    job = {
        "bundle": str(bundle.resolve()), "baseline": None, "settings": settings.model_dump(),
        "seconds": 3 * seconds, "trust_factory": False,
    }  # fmt: skip
    answer = child.run("capdeploy.bench.worker", job, threads=1, timeout=120)
    return Measured.model_validate(answer["result"])


def bare_loop(graph: Path, seconds: float) -> float:
    """Measure with ONNX Runtime alone."""
    return float(pinned([sys.executable, "-c", LOOP, str(graph), str(seconds)]))


def benchmark_app(graph: Path, seconds: float) -> float:
    """Measure with OpenVINO's tool; three significant digits are all that its report has."""
    shape = ",".join(map(str, (1, *image_shape(graph))))
    with tempfile.TemporaryDirectory() as folder:
        pinned([
            str(Path(sys.executable).with_name("benchmark_app")), "-m", str(graph), "-d", "CPU",
            "-hint", "latency", "-api", "sync", "-t", str(max(1, round(seconds))),
            "-infer_precision", "f32", "-shape", f"[{shape}]", "-json_stats",
            "-report_type", "no_counters", "-report_folder", folder,
        ])  # fmt: skip
        found = json.loads(Path(folder, "benchmark_report.json").read_text())
    return float(found["execution_results"]["latency (ms)"])


def image_shape(graph: Path) -> list[int]:
    """Read the input's channels, height and width."""
    return [axis or 1 for axis in graphfile.read(graph).input_shape[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    graph = bundles.read(asked.bundle).path(bundles.GRAPH)
    pairs = {
        "onnxruntime": ("bare loop", bare_loop),
        "openvino": ("benchmark_app -hint latency", benchmark_app),
    }
    print("| runtime | its own tool | by the same clock | the whole call | rounds |")
    print("|:--|:--|--:|--:|--:|")
    for runtime, (name, tool) in pairs.items():
        same, whole = [], []
        for number in range(asked.rounds):
            # Who goes first alternates, so that a drift favours neither.
            theirs = tool(graph, asked.seconds) if number % 2 else 0.0
            mine = ours(asked.bundle, runtime, asked.seconds)
            theirs = theirs or tool(graph, asked.seconds)
            whole.append(statistics.median(mine.latency_ms) / theirs)
            same.append(statistics.median(mine.device_ms or mine.latency_ms) / theirs)
        print(f"| {runtime} | {name} | {ratio(same)} | {ratio(whole)} | {asked.rounds} |")


def ratio(found: list[float]) -> str:
    return f"{statistics.median(found):.3f} ({min(found):.3f}..{max(found):.3f})"


if __name__ == "__main__":
    main()
