"""How a runtime's kernels take time, their widths apart, and where times of one place are kept."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from capdeploy import workplace
from capdeploy.bench import environment, layers, tune
from capdeploy.export import probes
from capdeploy.stages.place import Place
from capdeploy.values.latency import LayerShape

CHAIN = 17
METHOD = 5  # raised when times come about in another way: stored ones are then measured anew
REFERENCE = LayerShape(kind="conv", height=28, width=28, kernel=(3, 3), pads=(1, 1, 1, 1))
REFERENCE_WIDTH = 32
"""Channels of that layer, which takes some tenths of a ms and tells how busy the machine is."""


@dataclass(frozen=True)
class Stopwatch:
    """Times graphs in one place, and says where the times are kept.

    Parameters
    ----------
    place : Place
        Runtime, device and threads.
    evict : int
        Bytes to read before each call.
    cache : Path
        Folder for the times.
    here : str
        Fingerprint of this kind of machine.
    """

    place: Place
    evict: int
    cache: Path
    here: str = field(default_factory=lambda: environment.read().fingerprint)

    def file_of(self, what: object) -> Path:
        """Name the file of one measurement on this kind of machine."""
        text = json.dumps(
            [METHOD, self.here, list(self.place.where.values()), self.evict, repr(what)]
        )
        return self.cache / f"latency-{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"

    def times(self, graphs: Sequence[Sequence[Path]], folder: Path) -> list[list[float]]:
        """Time graphs there, beside a reference."""
        reference = folder / "reference.onnx"
        probes.layer(REFERENCE, REFERENCE_WIDTH, REFERENCE_WIDTH, reference)
        return layers.times(graphs, reference, layers.Spot(**self.place.where, evict=self.evict))


def stairs(watch: Stopwatch, align: int) -> dict[str, int]:
    """Read or measure how many channels the kernels of each kind of layer compute at once.

    Parameters
    ----------
    watch : Stopwatch
        Where that is asked for.
    align : int
        Widths are multiples of it anyway; only its own multiples are coarser stairs.

    Returns
    -------
    dict[str, int]
        By the block that was probed; empty if `align` is as coarse as stairs ever are, or kernels
        of another precision count, which the probes are not.
    """
    if watch.place.precision != "fp32":
        return {}
    widths = sorted({width for each in tune.finer(align).values() for width in each})
    if not widths:
        return {}
    file = watch.file_of(("stairs", align))
    stored = workplace.recall(file)
    if (
        isinstance(stored, dict) and [*stored] == [*probes.BLOCKS]
        and all(grain in (1, *tune.GRAINS) for grain in stored.values())
    ):  # fmt: skip
        return stored
    with tempfile.TemporaryDirectory(prefix="capdeploy-layers-") as folder:
        rows = []
        for block in probes.BLOCKS:
            rows.append([Path(folder) / f"{block}-{width}.onnx" for width in widths])
            for width, path in zip(widths, rows[-1], strict=True):
                probes.build(block, width, path)
        found = watch.times(rows, Path(folder))
    known = {
        block: tune.grain(dict(zip(widths, ms, strict=True)), align)
        for block, ms in zip(probes.BLOCKS, found, strict=True)
    }
    workplace.remember(file, known)
    return known


def start_ms(watch: Stopwatch, folder: Path) -> float:
    """Measure what starting one operator costs, in ms: a long chain of slight ones against one."""
    files = [folder / "chain-1.onnx", folder / f"chain-{CHAIN}.onnx"]
    for file, operators in zip(files, (1, CHAIN), strict=True):
        probes.chain(operators, file)
    ((one, many),) = replace(watch, evict=0).times([files], folder)
    return max(0.0, (many - one) / (CHAIN - 1))
