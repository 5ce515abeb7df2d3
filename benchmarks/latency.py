r"""Does it pay to cut where the time goes? One latency, several allocations, accuracy side by side.

    python -m benchmarks.latency --allocations latency,global,uniform --seeds 0 -- \
        CHECKPOINT --arch mobilenet_v2 --data ... --strategy contrast --speedup 2x,4x,8x \
        --epochs 0 --reconstruct

Everything behind the two dashes goes to `capdeploy compress`. Prints a Markdown table: what was
asked, measured and estimated, how many candidates that took and how long, and the accuracy.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from capdeploy.bundle import PLAN
from capdeploy.values.plan import PruningPlan
from capdeploy.values.report import RunReport

LAYERS = "layers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allocations", default="latency,global,uniform")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="for capdeploy compress")
    asked = parser.parse_args()
    rest = asked.rest[1:] if asked.rest[:1] == ["--"] else asked.rest
    print("| budget | allocation | seed | budget ms | measured ms | estimate off by | candidates | "
          "search s | MACs | blocks removed | top-1 [95 %] |")  # fmt: skip
    print("|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for seed in asked.seeds.split(","):
        for allocation in asked.allocations.split(","):
            rows(rest, allocation, seed)


def rows(rest: list[str], allocation: str, seed: str) -> None:
    """Make one run and print a row for each of its budgets."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "capdeploy", "compress", *rest, "--no-bench", "--seed", seed,
            "--allocation", allocation, "-o", f"{folder}/out", "-f", "json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        out = Path(folder) / "out"
        if done.returncode != 0:  # after a negative verdict the bundles are whole all the same
            print(f"| {allocation}, seed {seed}: {done.stderr.strip().splitlines()[-1]} |")
            if not (out / "report.json").is_file():
                return
        report = RunReport.from_json((out / "report.json").read_bytes())
        removed = {
            metrics.name: len(
                PruningPlan.from_json((out / metrics.name / PLAN).read_bytes()).removed
            )
            for metrics in report.models
        }
    spent = seconds(done.stderr)
    print(f"{allocation}, seed {seed}: layers timed in {spent[LAYERS]:.0f} s", file=sys.stderr)
    for metrics in report.models:
        search = metrics.search
        if search is None:
            continue
        accuracy = metrics.accuracy[-1]
        low, high = accuracy.interval
        print(
            f"| {metrics.name} | {allocation} | {seed} | {search.budget:.3g} | "
            f"{search.result.measured:.3g} | {search.estimate_error:+.0%} | "
            f"{len(search.trials)} | {spent.get(metrics.name, 0):.0f} | "
            f"{metrics.after.macs / 1e6:.1f} M | {removed[metrics.name]} | "
            f"{accuracy.top1:.1%} [{low * 100:.1f}, {high * 100:.1f}] |",
            flush=True,
        )


def seconds(progress: str) -> dict[str, float]:
    """Read from the times before the steps how long each search took, and timing the layers."""
    steps = [(float(found[1]), found[2]) for found in
             re.finditer(r"^\[ *([0-9.]+) s\] (.*)$", progress, re.MULTILINE)]  # fmt: skip
    taken = [(name, after - begun) for (begun, name), (after, _) in itertools.pairwise(steps)]
    layers = sum(spent for name, spent in taken if re.match(r"time \d+ kinds of layers", name))
    return {LAYERS: layers} | {
        name.split()[1]: spent for name, spent in taken if name.startswith("search ")
    }


if __name__ == "__main__":
    main()
