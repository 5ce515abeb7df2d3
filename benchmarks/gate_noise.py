"""Does the gate cry wolf, and does it sleep? Prints the tables of benchmarks/RESULTS.md.

    python -m benchmarks.gate_noise --bundle BUNDLE --times 30

A bundle's graph against itself; against the same graph slowed by an extra operator; both again
with another process loading a core; and beside them what a stored baseline would have said.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from capdeploy import profiles, recipes
from capdeploy.bench import effect, gate
from capdeploy.bench.contest import Sampling
from capdeploy.bench.processes import Processes
from capdeploy.progress import Quiet
from capdeploy.values.gate import GateRow
from capdeploy.values.report import Settings

STORED_MARGIN = 0.05


def slowed(source: Path, target: Path, size: int) -> None:
    """Add real work that changes no answer: a matrix product from the logits, times zero."""
    model = onnx.load(source)
    graph = model.graph
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["fast_logits" if name == output else name for name in node.output]
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    generator = np.random.default_rng(0)

    def stored(name, shape):
        values = generator.standard_normal(shape, dtype=np.float32) * 1e-3
        graph.initializer.append(numpy_helper.from_array(values, name))

    stored("slow_in", (classes, size))
    stored("slow_out", (size, classes))
    graph.initializer.append(helper.make_tensor("slow_zero", TensorProto.FLOAT, [], [0.0]))
    graph.node.extend(
        [
            helper.make_node("MatMul", ["fast_logits", "slow_in"], ["slow_wide"]),
            helper.make_node("Tanh", ["slow_wide"], ["slow_bent"]),
            helper.make_node("MatMul", ["slow_bent", "slow_out"], ["slow_back"]),
            helper.make_node("Mul", ["slow_back", "slow_zero"], ["slow_none"]),
            helper.make_node("Add", ["fast_logits", "slow_none"], [output]),
        ]
    )
    onnx.save(model, target)


def measured_slowdown(base: Path, head: Path, settings: Settings, blocks: int = 12) -> float:
    """Measure a slowdown interleaved, by the row's own clock."""
    ring = Processes(base, head, settings, Sampling(seed=99))
    return effect.estimate(effect.log_ratios(ring.blocks(blocks), "cpu")).ratio


def make_slow(base: Path, folder: Path, settings: Settings, wanted: float) -> tuple[Path, float]:
    """Choose the extra operator's size so that the measured slowdown is the one that is wanted."""
    size, found, path = 1100, 1.0, folder / "slowed.onnx"
    for _ in range(10):
        slowed(base, path, size)
        found = measured_slowdown(base, path, settings)
        print(f"extra operator of {size} columns: {found - 1:+.1%}", file=sys.stderr)
        if abs(found - 1 - wanted) < 0.004:
            break
        size = max(64, round(size * min(4.0, max(0.25, wanted / max(found - 1, 0.01)))))
    return path, found


def _burn() -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # whoever ends the parent ends the load too
        sum(number * number for number in range(10_000))


def series(
    name: str, base: Path, head: Path, times: int, settings: Settings, *, loaded: bool
) -> list[GateRow]:
    """Gate the same pair again and again."""
    profile = recipes.with_runtime(
        profiles.load("this-host"), {"runtimes": [settings.runtime], "devices": ["cpu"]}
    )
    noisy = multiprocessing.get_context("spawn").Process(target=_burn, daemon=True)
    if loaded:
        noisy.start()
        time.sleep(1)
    rows = []
    try:
        for number in range(times):
            report = gate.run(
                base, head, profile,
                sampling=replace(Sampling(), seed=number), floors={}, say=Quiet(),
            )  # fmt: skip
            rows.append(report.rows[0])
            print(f"{name} {number + 1}/{times}: {rows[-1].verdict}: {rows[-1].reason}",
                  file=sys.stderr)  # fmt: skip
    finally:
        if loaded:
            noisy.kill()
    return rows


def line(name: str, rows: list[GateRow]) -> str:
    """Write one line of the table."""
    counts = Counter(row.verdict for row in rows)
    off = sorted(row.effect.ratio - 1 for row in rows)
    cells = [str(counts[word]) for word in
             ("regressed", "faster", "kept", "inconclusive", "too noisy")]  # fmt: skip
    visible = sorted(row.visible for row in rows)[len(rows) // 2]
    return (
        f"| {name} | {len(rows)} | {' | '.join(cells)} | {off[len(off) // 2]:+.1%} "
        f"({off[0]:+.1%}..{off[-1]:+.1%}) | {visible:+.1%} |"
    )


def stored(rows: list[GateRow]) -> str:
    """Say what a baseline stored one comparison earlier would have said of the same network."""
    found = []
    for clock in ("wall", "cpu"):
        medians = [
            float(np.median([value for block in row.blocks
                             for value in getattr(block, f"base_{clock}_ms")]))
            for row in rows
        ]  # fmt: skip
        pairs = list(itertools.permutations(medians, 2))
        alarms = sum(head / base > 1 + STORED_MARGIN for base, head in pairs)
        drift = max(head / base for base, head in pairs)
        found.append(f"{clock}: {alarms / len(pairs):.0%} of {len(pairs)} ordered pairs, "
                     f"drift up to {drift:.2f}x")  # fmt: skip
    return f"a stored median, alarm at +{STORED_MARGIN:.0%}: " + "; ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--slowdown", type=float, default=0.10)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--parts", default="same,slowed,same loaded,slowed loaded")
    asked = parser.parse_args()
    base = asked.bundle / "model.onnx" if asked.bundle.is_dir() else asked.bundle
    settings = Settings(bundle=base.name, runtime=asked.runtime, device="cpu", threads=1)
    with tempfile.TemporaryDirectory() as folder:
        slow, found = make_slow(base, Path(folder), settings, asked.slowdown)
        kinds = {
            "same": ("against itself", base, False),
            "slowed": (f"slowed by {found - 1:.1%}", slow, False),
            "same loaded": ("against itself, a core loaded", base, True),
            "slowed loaded": (f"slowed by {found - 1:.1%}, a core loaded", slow, True),
        }
        lines, notes = [], []
        for part in asked.parts.split(","):
            name, head, loaded = kinds[part]
            rows = series(name, base, head, asked.times, settings, loaded=loaded)
            lines.append(line(name, rows))
            notes.append(f"- {name}: {stored(rows)}")
    print("| head | gates | regressed | faster | kept | inconclusive | too noisy | "
          "median (range) | smallest seen |")  # fmt: skip
    print("|:--|--:|--:|--:|--:|--:|--:|--:|--:|")
    print("\n".join([*lines, "", *notes]))


if __name__ == "__main__":
    main()
