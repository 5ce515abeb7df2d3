"""What waiting threads cost: a training step, quiet and with one core busy, by how long they spin.

python -m benchmarks.spinning

ResNet-18 at 32 pixels, batches of 32, two threads; each number is a process of its own, in turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median

from capdeploy import patience

STEPS = """
import sys, time, torch, torchvision
torch.set_num_threads(2)
network = torchvision.models.resnet18(num_classes=10).train()
images, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
def step():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()
step()
began = time.monotonic()
for _ in range(int(sys.argv[1])):
    step()
print(1000 * (time.monotonic() - began) / int(sys.argv[1]))
"""
KINDS = {
    "by default": {},
    f"{patience.SPINS} times": {patience.VARIABLE: patience.SPINS},
    "not at all": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    print("| threads spin | quiet, ms a step | a core busy, ms a step |\n|:--|--:|--:|")
    quiet = measured(asked.rounds, asked.steps)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        loaded = measured(asked.rounds, asked.steps)
    finally:
        busy.kill()
        busy.wait()
    for kind in KINDS:
        print(f"| {kind} | {told(quiet[kind])} | {told(loaded[kind])} |")


def measured(rounds: int, steps: int) -> dict[str, list[float]]:
    plain = {name: value for name, value in os.environ.items() if name not in patience.TUNED}
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, variables in KINDS.items():
            done = subprocess.run(
                [sys.executable, "-c", STEPS, str(steps)], env=plain | variables,
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found[kind].append(float(done.stdout))
    return found


def told(values: list[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f}..{max(values):.0f})"


if __name__ == "__main__":
    main()
