"""CIFAR-10: 60,000 colour images of 32x32 pixels (Krizhevsky, 2009)."""

from __future__ import annotations

from functools import partial

from capdeploy.cifar import Edition, open_edition
from capdeploy.data import Kind
from capdeploy.values.checkpoint import Preprocessing

EDITION = Edition(
    title="cifar10",
    python="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    batches={
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test": ("test_batch",),
    },
    names=(
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
    key=b"labels",
    label_bytes=1,
    preprocessing=Preprocessing(
        height=32, width=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
    ),
)  # fmt: skip

DATASET = Kind(
    open=partial(open_edition, EDITION),
    layout="cifar10:ROOT with cifar-10-batches-py or -bin, or train/CLASS/* and test/CLASS/*",
)
