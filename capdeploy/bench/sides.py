"""The two sides of a comparison: bundles, or bare ONNX files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from capdeploy import bundle as bundles
from capdeploy import graphfile
from capdeploy.bench.child import SLOWEST
from capdeploy.bench.measure import Batch
from capdeploy.bundle import GRAPH, Bundle, digest
from capdeploy.check_images import CheckImages
from capdeploy.errors import UsageError
from capdeploy.graphfile import GraphFile
from capdeploy.values.gate import Side

Artefact = Bundle | GraphFile
IMAGES = 16
BLOCK_SECONDS = 300
"""Time limit of a block, its inferences apart."""
CALLS = 130
"""Inferences of both sides in one block, on a busy machine."""
REUSE = 200
"""How often a graph uses each parameter on an image: ResNet-50 160 times, SqueezeNet 280."""


def read(path: Path) -> Artefact:
    """Open a bundle's folder, a run's folder with one compressed bundle, or an ONNX file.

    Parameters
    ----------
    path : Path
        What the user named.

    Returns
    -------
    Artefact
        What lies there.

    Raises
    ------
    UsageError
        If nothing can be compared there, or more than one thing.
    """
    if path.is_file() or path.suffix == ".onnx":
        graph = graphfile.read(path)
        if len(graph.input_shape) < 2 or None in graph.input_shape[1:]:
            raise UsageError(
                f"{path}: its input is {_shape(graph.input_shape)}, and a free size cannot be "
                "timed; export it with a fixed one (only the batch may be free)"
            )
        return graph
    found = bundles.find(path)
    if len(found) > 1:
        found = tuple(each for each in found if each.manifest.role == "compressed")
    if len(found) != 1:
        names = ", ".join(each.folder.name for each in found)
        raise UsageError(f"{path} holds several bundles ({names}); name one of them")
    return found[0]


def batch(pair: Sequence[Artefact], wanted: int) -> int:
    """Say how many images a call takes: as many as are wanted, or as a graph is exported for.

    Parameters
    ----------
    pair : Sequence[Artefact]
        The two sides; they can be compared.
    wanted : int
        What the profile says; 1, the default, leaves it to the graphs.

    Returns
    -------
    int
        Images of a call.

    Raises
    ------
    UsageError
        If a graph takes another number only.
    """
    for each in pair:
        if isinstance(each, Bundle):
            continue  # its batch is free
        fixed = each.input_shape[0]
        if fixed is not None and fixed != wanted:
            if wanted != 1:
                way_out = f"use --batch {fixed}" if fixed > 1 else (
                    "take a profile whose scenario is single-stream"
                )  # fmt: skip
                raise UsageError(
                    f"{each.file} takes {fixed} images a call and no other number, asked for "
                    f"{wanted}; export it with a free batch, or {way_out}"
                )
            return fixed
    return wanted


def batches(artefact: Artefact, size: int, images: int = IMAGES) -> list[Batch]:
    """Make the inputs: the bundle's own test images, or noise where a bare graph has none."""
    if isinstance(artefact, GraphFile):
        shape = (artefact.input_shape[0] or size, *map(int, artefact.input_shape[1:]))  # type: ignore[arg-type]
        generator = np.random.default_rng(0)
        return [generator.standard_normal(shape, dtype=np.float32) for _ in range(images)]
    found = np.asarray(CheckImages.load(artefact.folder).images[: max(images, size)])
    if len(found) < size:
        found = np.resize(found, (size, *found.shape[1:]))
    inputs = artefact.manifest.preprocessing.apply(found)
    return [inputs[at : at + size] for at in range(0, len(inputs) - size + 1, size)]


def side(artefact: Artefact) -> Side:
    """Name one of the two."""
    if isinstance(artefact, GraphFile):
        digests = [digest(path) for path in artefact.files]
        whole = hashlib.sha256("".join(digests).encode()).hexdigest()
        return Side(name=artefact.file.name, sha256=whole if digests[1:] else digests[0])
    name = f"{artefact.folder.resolve().parent.name}/{artefact.folder.resolve().name}"
    return Side(name=name, sha256=artefact.manifest.files[GRAPH].sha256)


def seconds(pair: Sequence[Artefact], batch: int) -> float:
    """Say how long a block of two artefacts may take on the slowest device of use.

    Parameters
    ----------
    pair : Sequence[Artefact]
        Base and head.
    batch : int
        Images a call.

    Returns
    -------
    float
        Seconds. What a bare graph computes is not known; convolutions use a weight some hundred
        times.
    """
    macs = sum(
        each.manifest.cost.macs if isinstance(each, Bundle) else REUSE * each.parameters
        for each in pair
    )
    return BLOCK_SECONDS + macs * batch * CALLS / SLOWEST


def incomparable(base: Artefact, head: Artefact) -> tuple[str, ...]:
    """List why two artefacts cannot be timed against each other: one takes other inputs."""
    shapes = [graphfile.read(each.path(GRAPH)).input_shape for each in (base, head)]
    fixed = {shape[0] for shape in shapes} - {None}
    if len(fixed) < 2:
        shapes = [shape[1:] for shape in shapes]  # the batch fits
    if shapes[0] != shapes[1]:
        return (f"input shape: {_shape(shapes[0])} and {_shape(shapes[1])}",)
    return ()


def _shape(shape: tuple[int | None, ...]) -> str:
    return "x".join("any" if axis is None else str(axis) for axis in shape) or "unknown"
