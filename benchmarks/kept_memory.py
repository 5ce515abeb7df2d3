"""What it is worth to keep freed memory while a network is trained (`capdeploy.heap`).

    python -m benchmarks.kept_memory

Random weights, the embedded digits, three tenths of the filters cut, one epoch of the default
recovery. Every run is a process of its own with one thread, both ways in turns. Prints seconds,
the share of the processor's time that the system took, and the largest resident memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import torchvision

from benchmarks.memory import apart, peak_mb
from capdeploy import heap, pipeline
from capdeploy.progress import Quiet
from capdeploy.prune import apply
from capdeploy.stages import making
from capdeploy.values.recipe import Recipe


def recover(file: Path, name: str, size: int, batch: int, images: int, kept: bool, answer) -> None:
    """Cut and train once; answers with seconds, the system's share and megabytes."""
    torch.set_num_threads(1)
    recipe = Recipe(
        checkpoint=str(file), arch=name, data="digits", classes=("0", "3", "6", "8"),
        input_size=(size, size), strategy="ln_norm", ratio=(0.3,), batch_size=batch, lr=1e-4,
        samples_per_class=images, dropped_images=0.0,
    )  # fmt: skip
    planned = pipeline.plan(recipe, Quiet())
    cut = apply.cut(planned.full, planned.plans[1])
    made = making.Made("x", planned.plans[1], cut)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    with heap.kept() if kept else contextlib.nullcontext():
        making.recover(made, planned.narrow, planned.samples, recipe, 1, Quiet())
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    answer.put((seconds, system / (system + after.ru_utime - before.ru_utime), peak_mb()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="mobilenet_v2:224:16,resnet18:32:32")
    parser.add_argument("--images", type=int, default=16, help="of each of four classes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| network | pixels | batch | freed memory | seconds | of it system | peak MB |")
    print("|:--|--:|--:|:--|--:|--:|--:|")
    for network in options.networks.split(","):
        name, size, batch = re.fullmatch(r"(\w+):(\d+):(\d+)", network).groups()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "random.pth"
            torch.manual_seed(0)
            torch.save(torchvision.models.get_model(name, num_classes=10).state_dict(), file)
            asked = (file, name, int(size), int(batch), options.images)
            runs = {kept: [] for kept in (False, True)}
            for _ in range(options.rounds):
                for kept, found in runs.items():
                    found.append(apart(recover, *asked, kept))
        for kept, found in runs.items():
            seconds, system, peak = map(median, zip(*found, strict=True))
            print(f"| {name} | {size} | {batch} | {'kept' if kept else 'given back'} "
                  f"| {seconds:.1f} | {system:.0%} | {peak:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
