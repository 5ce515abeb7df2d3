"""The demonstration: a ResNet-18 trained on the embedded digits, cut down to four of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from capdeploy import heap, rebuild, samples, stages, workplace
from capdeploy.model import Model, example
from capdeploy.observe.trace import trace
from capdeploy.progress import Say
from capdeploy.samples import Samples
from capdeploy.train import finetune
from capdeploy.train.course import Course
from capdeploy.values.checkpoint import Architecture, Checkpoint
from capdeploy.values.classes import ClassSubset
from capdeploy.values.recipe import Recipe

ARCH, DATA, CLASSES = "resnet18", "digits", ("0", "3", "6", "8")
TRAINING = finetune.Settings(
    epochs=8, learning_rate=1e-3, optimizer="adamw", weight_decay=1e-4, clip=1.0, warmup=0.1,
    patience=8, batch_size=64, seed=0,
)  # fmt: skip


def recipe(say: Say) -> dict[str, Any]:
    """Give the demo's recipe, training its network first if it is not in the cache.

    Parameters
    ----------
    say : Say
        Hears of the training.

    Returns
    -------
    dict[str, Any]
        Recipe keys and values.
    """
    file = workplace.cache() / f"demo-{ARCH}-{_content()}.safetensors"
    if file.is_file():
        say.step(f"demo network is cached: {file}")
    else:
        say.step(f"train the demo network ({ARCH} on {DATA})")
        _train(file, say)
    return {
        "checkpoint": str(file), "arch": ARCH, "data": DATA, "classes": list(CLASSES),
        "strategy": "ocap", "ratio": [0.75], "epochs": 4, "bench_seconds": 3.0,
    }  # fmt: skip


def _content() -> str:
    """Hash all that decides what the network will be: the images and the training."""
    data = samples.open_dataset(DATA)
    labels = data.labels("train")
    pixels = np.stack([data.read("train", index) for index in range(len(labels))])
    text = repr((ARCH, TRAINING, torch.__version__)).encode()
    return hashlib.sha256(pixels.tobytes() + labels.tobytes() + text).hexdigest()[:16]


@heap.kept()
def _train(file: Path, say: Say) -> None:
    dataset = samples.open_dataset(DATA)
    everything = ClassSubset(kept=tuple(range(10)), names=dataset.names, total=10)
    settings = Recipe(checkpoint=file.name, arch=ARCH, data=DATA)
    wanted = stages.preprocessing(settings, dataset)
    images = Samples(dataset, tuple(range(10)), everything, wanted, 0.1, 0, 256)
    architecture = Architecture.parse(ARCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TRAINING.seed)
        module = rebuild.build(architecture, 10)
    # No file exists yet, so the record of origin is a placeholder that never leaves this function.
    origin = Checkpoint(
        file=file.name, sha256="0" * 64, architecture=architecture, outputs=10,
        stored_dtype="float32", input=wanted,
    )  # fmt: skip
    fresh = Model(module, origin, wanted, trace(module, example(wanted)), everything, True)
    tuned, _ = finetune.run(fresh, Course(images.train, images.validation), TRAINING, say)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".partial-{os.getpid()}")
    try:
        save_file(dict(tuned.module.state_dict()), draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
