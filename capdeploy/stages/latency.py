"""The table of a network's layer latencies by width: probes built, timed, and kept."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from capdeploy import workplace
from capdeploy.export import probes
from capdeploy.model import Model
from capdeploy.observe.shapes import shapes
from capdeploy.progress import Say
from capdeploy.stages import kernels
from capdeploy.stages.place import Place
from capdeploy.values.cost import NetworkGeometry
from capdeploy.values.group import Group
from capdeploy.values.latency import LatencyTable, LayerShape, WidthTimes

Times = npt.NDArray[np.float64]
Probe = tuple[int | None, int]
"""Outputs and inputs of a timed layer; None: only what lies around it."""
LEVELS = (0.0, 1 / 4, 1 / 2, 1.0)
"""Shares of a layer's width that are timed, from the narrowest on; between them the times are
interpolated. Below the narrowest that was timed all would look alike, and nothing be saved."""
LEAST_MS = 1e-4  # a difference of two measured times can come out below zero
MOST_EVICTED = 1 << 26  # bytes; beyond the last cache of most machines
WEIGHTS_AT_ONCE = 1 << 26  # probes of so many weights are written and opened together


@dataclass(frozen=True)
class Grid:
    """The widths at which one kind of layer is timed, and the stairs of its outputs and inputs."""

    shape: LayerShape
    outs: tuple[int, ...]
    ins: tuple[int, ...]
    grain: int = 1
    grain_in: int = 1

    def weights(self) -> int:
        """Count the weights of all its probes."""
        kernel = self.shape.kernel[0] * self.shape.kernel[1]
        return kernel * sum(self.outs) * sum(self.ins)

    def inputs(self, out: int, into: int) -> int:
        """Say how wide the input is: that of a grouped convolution follows its output."""
        block = self.shape.block
        return into if block is None else out // block[0] * block[1]

    def probes(self) -> list[Probe]:
        """List what is timed: the layer at each pair of widths, and its surroundings at each."""
        wide = [(out, self.inputs(out, into)) for into in self.ins for out in self.outs]
        return list(
            dict.fromkeys(each for out, into in wide for each in [(None, into), (out, into)])
        )


def table(
    model: Model, groups: Sequence[Group], place: Place, *, align: int, cache: Path, say: Say
) -> LatencyTable:
    """Time every layer of a network at every width, or read what an earlier run has timed.

    Parameters
    ----------
    model : Model
        The head-cut network.
    groups : Sequence[Group]
        Its groups; layers outside of them are timed as they are.
    place : Place
        Runtime, device and threads.
    align : int
        Timed widths are multiples of this.
    cache : Path
        Folder for the times; they hold for one kind of machine and one version of the runtime.
    say : Say
        Hears of the progress.

    Returns
    -------
    LatencyTable
        Milliseconds for one image.

    Raises
    ------
    StepFailedError
        If the probes cannot be timed.
    MissingError
        If runtime or device are not here.
    """
    found = shapes(model.module, model.trace.filters, model.example(1))
    watch = kernels.Stopwatch(place, min(MOST_EVICTED, 4 * model.geometry.cost().parameters), cache)
    stairs = kernels.stairs(watch, align)
    if max(stairs.values(), default=1) > 1:
        say.note(f"kernels in {place.runtime} compute {max(stairs.values())} channels at once here")
    asked = {name: shape for name, (shape, _) in found.items()}
    grids = grids_of(model.geometry, groups, asked, stairs, align)
    wanted = list(dict.fromkeys(grids.values()))
    start, timed = _timed(wanted, watch, say)
    times = dict(zip(wanted, timed, strict=True))
    return LatencyTable(
        runtime=place.runtime, device=place.device, threads=place.threads, start_ms=start,
        layers={name: _called(times[grid], found[name][1]) for name, grid in grids.items()},
    )  # fmt: skip


def grids_of(
    geometry: NetworkGeometry, groups: Sequence[Group], shapes: Mapping[str, LayerShape],
    stairs: Mapping[str, int], align: int,
) -> dict[str, Grid]:  # fmt: skip
    """Say at which widths each layer is timed.

    Parameters
    ----------
    geometry : NetworkGeometry
        The head-cut network.
    groups : Sequence[Group]
        Its groups.
    shapes : Mapping[str, LayerShape]
        How its layers run; others are not timed.
    stairs : Mapping[str, int]
        How many channels kernels compute at once, by probed block; 1 for any other.
    align : int
        Widths are multiples of this, and of the layer's stairs where these are coarser.

    Returns
    -------
    dict[str, Grid]
        By layer.
    """
    free = Counter(chain.from_iterable(
        {(member.layer, member.side) for member in group.members}
        for group in groups if group.obstacle is None
    ))  # fmt: skip
    grids: dict[str, Grid] = {}
    for layer in geometry.layers:
        name, shape = layer.layer, shapes.get(layer.layer)
        if shape is None:
            continue
        # A linear layer saves a sliver for any channel; that is no reason to leave a stair.
        linear = shape.kind == "linear"
        grain = max(stairs.values(), default=1) if linear else stairs.get(shape.like or "", 1)
        # Of several groups side by side none reaches a stair alone, and all of them together would.
        grain_in = grain if free[name, "in"] < 2 else 1
        outs = _widths(layer.out_channels, max(align, grain), whole=not free[name, "out"])
        ins = _widths(layer.in_channels, max(align, grain_in), whole=not free[name, "in"])
        if shape.block is not None:
            outs = tuple(sorted({max(1, out // shape.block[0]) * shape.block[0] for out in outs}))
            ins = (layer.in_channels,)
        grids[name] = Grid(shape, outs, ins, grain, grain_in)
    return grids


def _called(times: WidthTimes, calls: int) -> WidthTimes:
    rows = tuple(tuple(value * calls for value in row) for row in times.ms)
    return times.model_copy(update={"ms": rows})


def _widths(width: int, align: int, *, whole: bool) -> tuple[int, ...]:
    if whole:
        return (width,)
    wanted = {max(align, round(width * level / align) * align) for level in LEVELS}
    return tuple(sorted({min(width, each) for each in wanted} | {width}))


def _timed(
    grids: Sequence[Grid], watch: kernels.Stopwatch, say: Say
) -> tuple[float, list[WidthTimes]]:
    """Read or measure what starting an operator costs, and the times of every grid.

    Each is kept as soon as it is measured, so that an interruption costs little.
    """
    place = watch.place
    known = {grid: _stored(watch.file_of(grid)) for grid in grids}
    start = workplace.recall(watch.file_of("start"))
    missing = [grid for grid in grids if known[grid] is None]
    if missing:
        kinds = f"{len(missing)} kinds of layers"
        say.step(f"time {kinds} in {place.runtime}, {place.threads} thread(s)")
    with tempfile.TemporaryDirectory(prefix="capdeploy-layers-") as folder:
        if not isinstance(start, float):
            start = kernels.start_ms(watch, Path(folder))
            workplace.remember(watch.file_of("start"), start)
        done = 0
        for part in _parts(missing):
            found = _measured(part, Path(folder), watch)
            for grid, times in zip(part, found, strict=True):
                workplace.remember(watch.file_of(grid), times.model_dump(mode="json"))
                known[grid] = times
            done += len(part)
            say.advance(done, len(missing), "layers")
    return start, [each for grid in grids if (each := known[grid]) is not None]


def _stored(file: Path) -> WidthTimes | None:
    try:
        return WidthTimes.model_validate(workplace.recall(file))
    except ValidationError:  # nothing is stored, or something else
        return None


def _parts(grids: Sequence[Grid]) -> list[list[Grid]]:
    """Deal the grids out, so that never too many weights lie on the disk and in memory at once."""
    parts: list[list[Grid]] = []
    load = WEIGHTS_AT_ONCE + 1
    for grid in grids:
        if load + grid.weights() > WEIGHTS_AT_ONCE:
            parts.append([])
            load = 0
        parts[-1].append(grid)
        load += grid.weights()
    return parts


def _measured(grids: Sequence[Grid], folder: Path, watch: kernels.Stopwatch) -> list[WidthTimes]:
    """Time the probes of some grids in one process; what lies around the layer is taken off."""
    rows: list[dict[Probe, Path]] = []
    for number, grid in enumerate(grids):
        row: dict[Probe, Path] = {}
        for probe in grid.probes():
            out, into = probe
            row[probe] = folder / f"layer-{number}-{into}-{out}.onnx"
            probes.layer(grid.shape, out, into, row[probe])
        rows.append(row)
    files = [list(row.values()) for row in rows]
    found = watch.times(files, folder)
    for path in chain.from_iterable(files):
        path.unlink()
    return [
        differences(grid, dict(zip(row, ms, strict=True)))
        for grid, row, ms in zip(grids, rows, found, strict=True)
    ]


def differences(grid: Grid, ms: Mapping[Probe, float]) -> WidthTimes:
    """Take off what lies around a layer, at each of its widths.

    Parameters
    ----------
    grid : Grid
        Its widths.
    ms : Mapping[Probe, float]
        Times of all the grid's probes.

    Returns
    -------
    WidthTimes
        The layer's own times, rising with its widths.
    """
    rows = []
    for out in grid.outs:
        inputs = [grid.inputs(out, into) for into in grid.ins]
        rows.append([max(LEAST_MS, ms[out, into] - ms[None, into]) for into in inputs])
    smooth = rising(np.array(rows), np.outer(grid.outs, grid.ins).astype(float))
    found = tuple(tuple(float(value) for value in row) for row in smooth)
    return WidthTimes(
        shape=grid.shape, out_channels=grid.outs, in_channels=grid.ins, ms=found,
        grain=grid.grain, grain_in=grid.grain_in,
    )  # fmt: skip


def rising(times: Times, work: Times) -> Times:
    """Bring measured times into an order in which a wider layer never looks faster.

    Noise, and kernels that dislike a width, make some narrower layers slower. Left as they are,
    they would end the planner's way down: a step that seems to cost time comes last, and what lies
    behind it is out of reach.

    Parameters
    ----------
    times : Times
        (outputs, inputs) ms at ascending widths.
    work : Times
        (outputs, inputs) what each width computes, in any unit; ascending too.

    Returns
    -------
    Times
        Half-way between the highest time of all narrower widths and the lowest of all wider ones,
        and a hundredth of the slowest time shared out by work, so that each timed width is faster.
    """
    above, below = times, times
    for axis in (0, 1):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    found: Times = (above + below) / 2 + 0.01 * times.max() * work / work.max()
    return found
