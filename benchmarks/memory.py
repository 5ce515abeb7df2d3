"""What opening and listing cost: memory and time, each in a process of its own.

    python -m benchmarks.memory

A checkpoint of VGG-16 (138 M parameters, 553 MB) in both formats, opened into its network; and
200,000 image files in 1,000 class folders, listed. Prints the table of RESULTS.md.
"""

from __future__ import annotations

import multiprocessing
import re
import sys
import tempfile
import time
from pathlib import Path

MB = 1_000_000
FILES, CLASSES = 200_000, 1_000


def peak_mb() -> float:
    """Read the largest resident memory of this process so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 / MB


def opened(file: Path, kind: str, answer) -> None:
    """Open a checkpoint; everything that is imported for it is imported before."""
    from capdeploy import model
    from capdeploy.stages.inputs import IMAGENET
    from capdeploy.values.checkpoint import Architecture

    small = file.with_name(f"small.{kind}")
    model.open(small, Architecture.parse("squeezenet1_1"), IMAGENET)
    before, began = peak_mb(), time.monotonic()
    found = model.open(file, Architecture.parse("vgg16"), IMAGENET)
    answer.put((peak_mb() - before, time.monotonic() - began, found.checkpoint.outputs))


def listed(root: Path, answer) -> None:
    from capdeploy import samples

    before, began = peak_mb(), time.monotonic()
    data = samples.open_dataset(f"folder:{root}", whole=True)
    count = len(data.labels("all"))
    answer.put((peak_mb() - before, time.monotonic() - began, count))


def apart(work, *arguments):
    """Do one piece of work in a fresh process."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=work, args=(*arguments, answer))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)
    return answer.get()


def main() -> None:
    import torch
    import torchvision
    from safetensors.torch import save_file

    print("| what | size | peak memory above the start | share of the size | time |")
    print("|:--|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind, save in (("pth", torch.save), ("safetensors", save_file)):
            file = root / f"vgg16.{kind}"
            save(torchvision.models.vgg16(init_weights=False).state_dict(), file)
            save(torchvision.models.squeezenet1_1().state_dict(), root / f"small.{kind}")
            peak, seconds, _ = apart(opened, file, kind)
            size = file.stat().st_size / MB
            print(
                f"| opening vgg16.{kind} | {size:.0f} MB | {peak:.0f} MB | {peak / size:.2f} | "
                f"{seconds:.1f} s |"
            )
            file.unlink()
        place = root / "images"
        for label in range(CLASSES):
            (place / f"class-{label:04d}").mkdir(parents=True)
            for number in range(FILES // CLASSES):
                (place / f"class-{label:04d}" / f"{number:06d}.jpg").touch()
        peak, seconds, count = apart(listed, place)
        print(f"| listing {count:,} image files | - | {peak:.0f} MB | - | {seconds:.1f} s |")


if __name__ == "__main__":
    main()
