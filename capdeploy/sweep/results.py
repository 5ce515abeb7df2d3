"""What a sweep gave: one row for each network, and which rows are never the best choice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from capdeploy import __version__, pipeline, textfile
from capdeploy.bench.stats import percentile
from capdeploy.errors import CapdeployError, ConfigError
from capdeploy.report.sweep import FILE
from capdeploy.stages.place import Place, place_of
from capdeploy.sweep.grid import Cell, Grid
from capdeploy.values.accuracy import Accuracy
from capdeploy.values.recipe import Recipe
from capdeploy.values.report import BenchmarkReport, Measured, Metrics, RunReport, Skipped
from capdeploy.values.sweep import Failure, SweepReport, SweepRow, Timing, dominated

RESULTS = "results.jsonl"


def collect(grid: Grid, runs: Path, failures: Sequence[Failure]) -> SweepReport:
    """Read every finished run of a sweep.

    Parameters
    ----------
    grid : Grid
        The runs.
    runs : Path
        Their folder.
    failures : Sequence[Failure]
        Runs that could not be made; networks that answer wrongly or broke a runtime are added.

    Returns
    -------
    SweepReport
        Rows in the order of the runs; dominated ones are marked among those that answer the same
        question (the same classes, for example).
    """
    rows: list[SweepRow] = []
    failed = {failure.run for failure in failures}
    missing, broken, beyond = [], [], []
    for cell in grid.cells:
        file = runs / cell.name / pipeline.REPORT
        if file.is_file():
            try:
                found = RunReport.from_json(file.read_bytes(), source=str(file))
                rows += _rows(cell, found)
                faults = list(_faults(found))
                beyond += [Failure(run=cell.name, point=dict(cell.point), error=line)
                           for line in found.out_of_reach]  # fmt: skip
            except CapdeployError as error:  # one bad file may not cost the others' results
                faults = [str(error)] if cell.name not in failed else []
            broken += [Failure(run=cell.name, point=dict(cell.point), error=fault)
                       for fault in faults]  # fmt: skip
        elif cell.name not in failed:
            missing.append(cell.name)
    return SweepReport(
        tool_version=__version__, axes=grid.axes, question=grid.question,
        rows=tuple(_marked(rows, grid.question)), failures=(*failures, *broken),
        missing=tuple(missing), out_of_reach=tuple(beyond),
    )  # fmt: skip


def write(report: SweepReport, folder: Path) -> None:
    """Write ``results.jsonl``, a line for each network, and ``sweep.json``."""
    lines = "".join(f"{row.model_dump_json()}\n" for row in report.rows)
    textfile.write(folder / RESULTS, lines, force=True)
    textfile.write(folder / FILE, report.to_json(), force=True)


def _marked(rows: Sequence[SweepRow], question: Sequence[str]) -> list[SweepRow]:
    asked = [tuple(row.point[axis] for axis in question) for row in rows]
    marks: dict[int, bool] = {}
    for one in set(asked):
        # What loses more than may be is no candidate, and pushes none off the front.
        places = [
            place for place, each in enumerate(asked)
            if each == one and rows[place].missed is None
        ]  # fmt: skip
        merits = _merits([rows[place] for place in places])
        marks |= zip(places, dominated(merits), strict=True)
    return [
        row.model_copy(update={"dominated": marks.get(at, False)}) for at, row in enumerate(rows)
    ]


def _merits(rows: Sequence[SweepRow]) -> list[tuple[float, ...]]:
    """Weigh the rows of one question: worst class, minus p90 latency, minus size.

    Networks of the same shape take the same time in one place, and noise can only add to it: the
    lowest p90 that was measured of a shape counts for all of them, or noise would choose between
    seeds. A network that was not measured is slower than any that was.
    """
    times: dict[tuple[object, ...], float] = {}
    for row in rows:
        if row.timing is not None:
            shape = _shape(row)
            times[shape] = min(times.get(shape, row.timing.p90_ms), row.timing.p90_ms)
    unknown = math.inf if times else 0.0
    return [
        (row.accuracy.worst.top1, -times.get(_shape(row), unknown), -float(row.size_bytes))
        for row in rows
    ]


def _shape(row: SweepRow) -> tuple[object, ...]:
    at = row.timing
    place = None if at is None else (at.runtime, at.device, at.threads)
    return row.cost, row.precision, place


def _faults(report: RunReport) -> Iterator[str]:
    """Say what is wrong with a finished run's networks."""
    for metrics in report.models:
        for proof in metrics.artifact.parity:
            if not proof.holds:
                yield f"{metrics.name}: the {proof.stage} graph answers differently"
    benchmark = report.benchmark
    for row in benchmark.rows if isinstance(benchmark, BenchmarkReport) else ():
        if isinstance(row.result, Skipped) and row.result.failed:
            yield f"{row.settings.row}: {row.result.reason}"
        parity = row.result.parity if isinstance(row.result, Measured) else None
        if row.settings.exact and parity is not None and not parity.holds:
            yield f"{row.settings.row}: it answers differently from the network"


def _rows(cell: Cell, report: RunReport) -> Iterator[SweepRow]:
    place = _place(cell.recipe)
    for number, found in enumerate(report.models):
        # What may be lost is asked of the sweep, which may have changed its mind since.
        most = cell.recipe.max_accuracy_drop if number else None
        metrics = found.model_copy(update={"max_accuracy_drop": most})
        for precision, accuracy, size, missed in _kinds(metrics, place):
            yield SweepRow(
                run=cell.name, point=dict(cell.point), bundle=metrics.name, precision=precision,
                baseline=not number, accuracy=accuracy, cost=metrics.after,
                size_bytes=size, timing=_timing(report, metrics.name, precision, place),
                missed=missed,
            )  # fmt: skip


def _place(recipe: Recipe) -> Place | None:
    """Say where latency counts; None where no runtime of graphs is asked for."""
    try:
        return place_of(recipe)
    except ConfigError:
        return None


def _kinds(
    metrics: Metrics, place: Place | None
) -> Iterator[tuple[str, Accuracy, int, str | None]]:
    """List a network's precisions where latency counts: name, accuracy, bytes, what was missed."""
    unmet = metrics.unmet  # of the network in any precision: the one that counts is not shipped
    yield "fp32", metrics.accuracy[-1], metrics.artifact.size_bytes, metrics.missed or unmet
    for each in metrics.quantized:
        here = place is not None and each.runtime == place.runtime
        if here and each.after is not None:
            why = f"{metrics.name} in {each.precision} is rejected: {each.rejected}"
            missed = why if each.rejected is not None else metrics.missed_in(each) or unmet
            yield each.precision, each.after, each.size_bytes, missed


def _timing(report: RunReport, name: str, precision: str, place: Place | None) -> Timing | None:
    benchmark = report.benchmark
    if place is None:
        return None
    for row in benchmark.rows if isinstance(benchmark, BenchmarkReport) else ():
        at, result = row.settings, row.result
        here = (at.runtime, at.device, at.threads) == (place.runtime, place.device, place.threads)
        if here and (at.bundle, at.precision) == (name, precision) and isinstance(result, Measured):
            faster = result.speed_up.ratio if result.speed_up is not None else None
            return Timing(
                **place.where, p50_ms=percentile(result.latency_ms, 50),
                p90_ms=percentile(result.latency_ms, 90), speed_up=faster,
            )  # fmt: skip
    return None
