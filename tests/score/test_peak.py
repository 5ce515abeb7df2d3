"""What scoring takes at its peak, in fresh processes: as much for 10,000 images as for 100."""

import dataclasses
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from capdeploy import samples
from capdeploy.samples import Samples
from capdeploy.strategies import STRATEGIES
from tests import nets
from tests.conftest import PREPROCESSING, SUBSET, shaken, wrap
from tests.shelves.test_strategies import SEEING, scored

FEW, MANY = 100, 10_000
MIB = 1 << 20


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def grown(names: list[str], answer) -> None:
    """Score images with every strategy; what the first hundred took is there before."""
    from capdeploy.train import head

    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = Samples(samples.open_dataset("digits"), SUBSET.kept, SUBSET, PREPROCESSING, 0.1, 0, 64)
    rows, labels = (np.resize(each, MANY) for each in (digits.train.rows, digits.train.labels))
    images = dataclasses.replace(digits.train, rows=rows, labels=labels)
    narrow = head.cut(wrap(shaken(nets.Chain(width=8))), digits.classes)
    for name in names:
        scored(name, narrow, images.take(FEW, seed=0), batch_size=50)
    before = peak()
    for name in names:
        scored(name, narrow, images, batch_size=50)
    answer.put(peak() - before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux keeps the peak there")
def test_the_peak_does_not_grow_with_the_images():
    """One layer's responses to all of them would be 78 MiB."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    names = [name for name in SEEING if name != "shapley"]  # which looks at 32 images by default
    assert set(names) < set(STRATEGIES.names())
    process = context.Process(target=grown, args=(names, answer))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    assert answer.get() < 12 * MIB
