"""Is a sweep that is killed twice and resumed the same as one that is not? Prints what differs.

    python -m benchmarks.killed_sweep SWEEP.toml WORK --jobs 2

Runs the sweep to its end in WORK/whole, and again in WORK/killed: its process gets SIGKILL when a
third of the runs is made, and again at two thirds, each time while others are being made.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from capdeploy.sweep import grid


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    found = grid.read(asked.sweep, os.environ, ())
    count, networks = len(found.cells), found.networks
    whole, killed = asked.work / "whole", asked.work / "killed"
    if not whole.exists():
        subprocess.run(command(asked, whole), check=True, stdout=subprocess.DEVNULL)
    for share in (1 / 3, 2 / 3):
        kill(asked, killed, max(1, round(share * count)))
    subprocess.run(command(asked, killed), check=True, stdout=subprocess.DEVNULL)
    one, other = rows(whole), rows(killed)
    different = [row["run"] for row, again in zip(one, other, strict=True) if row != again]
    print(f"{count} runs, {networks} networks and {count} baselines, {len(one)} rows each; killed "
          f"twice; {len(different)} rows differ (latencies apart)")  # fmt: skip
    return bool(different)


def command(asked: argparse.Namespace, folder: Path) -> list[str]:
    return [sys.executable, "-m", "capdeploy", "sweep", str(asked.sweep), "-o", str(folder),
            "--jobs", str(asked.jobs), "--resume"]  # fmt: skip


def kill(asked: argparse.Namespace, folder: Path, after: int) -> None:
    """Run the sweep until so many runs are made, then end its process without warning."""
    process = subprocess.Popen(command(asked, folder), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        made = [path for path in folder.glob("runs/*") if not path.name.startswith(".")]
        if len(made) >= after:
            time.sleep(1)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            left = [path.name for path in folder.glob("runs/.*")]
            print(f"killed with {len(made)} runs made and {len(left)} in work", file=sys.stderr)
            return
        time.sleep(0.05)
    raise SystemExit(f"the sweep ended by itself with {process.returncode}")


def rows(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    # Latency is what two sweeps may differ in, and what is dominated may depend on it.
    return [{key: row[key] for key in row if key not in ("timing", "dominated")} for row in found]


if __name__ == "__main__":
    sys.exit(main())
