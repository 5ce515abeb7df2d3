"""What a run's tables say, as plain strings; text and Markdown only lay them out."""

from __future__ import annotations

from dataclasses import dataclass

from capdeploy.bench.budgets import beyond, words
from capdeploy.bench.stats import least_samples, percentile, percentile_bounds
from capdeploy.bundle import BASELINE
from capdeploy.values.accuracy import Accuracy, ClassAccuracy
from capdeploy.values.report import (
    BenchmarkReport,
    Measured,
    Metrics,
    Row,
    RunReport,
    Skipped,
)

MIB = 1 << 20
# From here on the largest value lies above the true p99 with a certainty of 99 %.
P99_SAMPLES = least_samples(99, confidence=0.98)


@dataclass(frozen=True)
class Table:
    """Headed columns of text.

    Parameters
    ----------
    title : str
        What it shows, and what its numbers mean.
    columns : tuple[str, ...]
        Headings; the first column is a name, the others are right-aligned.
    rows : tuple[tuple[str, ...], ...]
        As many cells as there are columns.
    notes : tuple[str, ...]
        Lines underneath.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def count(value: int) -> str:
    """Shorten a count.

    Parameters
    ----------
    value : int
        What is counted, 0 or more.

    Returns
    -------
    str
        Three significant digits and a unit.

    Examples
    --------
    >>> count(1_822_000_000), count(11_690_512), count(950)
    ('1.82 G', '11.7 M', '950')
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def percent(accuracy: Accuracy) -> str:
    """Write an accuracy with its interval, for example ``97.5 % [96.1, 98.4]``."""
    low, high = accuracy.interval
    return f"{accuracy.top1:.1%} [{low * 100:.1f}, {high * 100:.1f}]".replace("%", " %")


def milliseconds(value: float) -> str:
    """Write a latency with three significant digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def summary(report: RunReport) -> Table:
    """Compare the models of a run: cost, accuracy, latency and speed-up in each runtime."""
    benchmark = report.benchmark if isinstance(report.benchmark, BenchmarkReport) else None
    runtimes = _cpu_runtimes(benchmark)
    columns = ["model", "filters cut", "accuracy [95 %]", "MACs", "parameters", "ONNX MiB"]
    columns += [f"{runtime} p50 ms (speed-up)" for runtime in runtimes]
    rows = []
    for metrics in report.models:
        cells = [
            metrics.name,
            f"{metrics.realised_ratio:.1%}",
            percent(metrics.accuracy[-1]),
            _fewer(metrics.after.macs, metrics.before.macs),
            _fewer(metrics.after.parameters, metrics.before.parameters),
            f"{metrics.artifact.size_bytes / MIB:.2f}",
        ]
        found = [_cpu_row(benchmark, metrics.name, runtime) for runtime in runtimes]
        cells += [_latency(row) for row in found]
        rows.append(tuple(cells))
    first = report.models[0].accuracy[-1]
    notes = [
        f"accuracy on {first.images} test images of {len(report.classes)} classes, Wilson 95 %; "
        "MACs of convolutions and linear layers, one image",
    ]
    notes += [
        f"{metrics.name} against the head cut alone, on the same images: "
        f"{metrics.lost.points:+.1f} points lost "
        f"[{metrics.lost.low:+.1f}, {metrics.lost.high:+.1f}]"
        for metrics in report.models[1:] if metrics.lost is not None
    ]  # fmt: skip
    notes += [
        f"{metrics.name}, before training: {metrics.search.sentence}"
        for metrics in report.models if metrics.search is not None
    ]  # fmt: skip
    notes += report.out_of_reach
    if benchmark is not None:
        notes += [line for each in report.models if (line := beyond(each, benchmark)) is not None]
        notes += _benchmark_notes(benchmark)
    elif isinstance(report.benchmark, Skipped):
        notes.append(f"not measured: {report.benchmark.reason}")
    return Table("Before and after", tuple(columns), tuple(rows), tuple(notes))


def _fewer(value: int, base: int) -> str:
    shown = count(value)
    return shown if value == base else f"{shown} ({base / value:.1f}x fewer)"


def _cpu_runtimes(benchmark: BenchmarkReport | None) -> list[str]:
    rows = benchmark.rows if benchmark is not None else ()
    names = [row.settings.runtime for row in rows if row.settings.device == "cpu"]
    return list(dict.fromkeys(names))


def _cpu_row(benchmark: BenchmarkReport | None, bundle: str, runtime: str) -> Row | None:
    for row in benchmark.rows if benchmark is not None else ():
        at = row.settings
        if (at.bundle, at.runtime, at.device, at.precision) == (bundle, runtime, "cpu", "fp32"):
            return row
    return None


def _latency(row: Row | None) -> str:
    if row is None or not isinstance(row.result, Measured):
        return "-"
    shown = milliseconds(percentile(row.result.latency_ms, 50))
    return f"{shown} ({_speed_up(row)})" if row.result.speed_up is not None else shown


def _speed_up(row: Row | None) -> str:
    if row is None or not isinstance(row.result, Measured):
        return "-"
    found = row.result.speed_up
    if found is None:
        return "1 (baseline)" if row.settings.bundle == BASELINE else "-"
    return f"{found.ratio:.1f}x [{found.low:.1f}, {found.high:.1f}]"


def _benchmark_notes(benchmark: BenchmarkReport) -> list[str]:
    first = benchmark.rows[0].settings
    where = f"profile {benchmark.profile}"
    if benchmark.emulated:
        where += " emulated on this host (threads only)"
    here = benchmark.environment
    bits = dict.fromkeys(row.settings.precision for row in benchmark.rows)
    notes = [
        f"{where}: {first.scenario}, {first.threads} thread(s), batch {first.batch}, "
        f"{', '.join(bits)}, {here.cpu_model}",
        f"{benchmark.includes}; speed-up against the head-cut network, interleaved in one "
        "process, bootstrap 95 %",
    ]
    if first.threads > here.threads_available:
        notes.append(
            f"{first.threads} threads share what {here.threads_available} core(s) can do here: "
            "latencies are those of an overloaded machine"
        )
    if benchmark.missing:
        names = [at.row for at in benchmark.missing]
        notes.append(f"interrupted; {len(names)} row(s) not measured: {', '.join(names)}")
    return notes if benchmark.noise is None else [*notes, benchmark.noise.sentence]


def stages(metrics: Metrics) -> Table:
    """Show the accuracy of one model at every stage."""
    rows = tuple(
        (
            accuracy.stage,
            percent(accuracy),
            str(accuracy.images),
            f"{accuracy.worst.name}: {accuracy.worst.correct}/{accuracy.worst.images} "
            f"[{accuracy.worst.interval[0] * 100:.1f}, {accuracy.worst.interval[1] * 100:.1f}]",
        )
        for accuracy in metrics.accuracy
    )
    notes = []
    training = metrics.training
    if training is not None:
        found = "found by a range test" if training.rate_found else "given"
        notes.append(
            f"{len(training.epochs)} epoch(s), rate {training.learning_rate:.1e} ({found}), "
            f"epoch {training.best_epoch} kept by {training.validation_images} validation images"
        )
        if training.rolled_back:
            notes.append(training.rollback)
    return Table(
        f"{metrics.name}: top-1 at every stage (test split)",
        ("stage", "accuracy [95 %]", "n", "worst class [95 %]"),
        rows,
        tuple(notes),
    )


def per_class(metrics: Metrics) -> Table:
    """Show every class before and after, worst first."""
    first = metrics.start
    before = {entry.name: entry for entry in first.classes}
    rows = [
        (entry.name, _bounded(before[entry.name]), _bounded(entry), str(entry.images))
        for entry in sorted(metrics.accuracy[-1].classes, key=lambda entry: entry.top1)
    ]
    return Table(
        f"{metrics.name}: per class, worst first",
        ("class", f"{first.stage} [95 %]", f"{metrics.accuracy[-1].stage} [95 %]", "n"),
        tuple(rows),
    )


def _bounded(entry: ClassAccuracy) -> str:
    low, high = entry.interval
    return f"{entry.top1 * 100:.1f} % [{low * 100:.1f}, {high * 100:.1f}]"


def benchmark(report: BenchmarkReport, *, wide: bool = False) -> Table:
    """Show every row of a benchmark; `wide` adds CPU time and the bounds of every percentile."""
    skipped = []
    found = []
    for row in report.rows:
        if isinstance(row.result, Measured):
            found.append((row, _latencies(row.result, wide=wide) | _measured(row, row.result)))
            continue
        line = f"{row.settings.runtime} on {row.settings.device}: skipped: {row.result.reason}"
        found.append((row, {}))
        if line not in skipped:
            skipped.append(line)
    # A column that no row can fill, like p99 after too few inferences, is left out.
    filled = {name for _, cells in found for name, cell in cells.items() if cell != "-"}
    columns = [name for name in dict.fromkeys(n for _, cells in found for n in cells)
               if name in filled]  # fmt: skip
    rows = []
    for row, cells in found:
        shown = [cells.get(name, "-") for name in columns] if cells else ["skipped"]
        shown += [""] * (len(columns) - len(shown))
        at = row.settings
        rows.append((at.bundle, at.engine, at.device, *shown))
    names = ("bundle", "runtime", "device", *(columns or ["result"]))
    notes = (*_benchmark_notes(report), *skipped, *map(words, report.budgets))
    return Table("Benchmark", names, tuple(rows), notes)


def _latencies(result: Measured, *, wide: bool) -> dict[str, str]:
    values = result.latency_ms
    cells = {}
    for share in (50, 90, 99):
        estimate, low, high = percentile_bounds(values, share)
        bounded = share == 50 or wide
        shown = milliseconds(estimate)
        if share == 99 and len(values) < P99_SAMPLES:
            shown = "-"
        elif bounded and len(values) >= least_samples(share):
            shown += f" [{milliseconds(low)}, {milliseconds(high)}]"
        cells[f"p{share} ms [95 %]" if bounded else f"p{share} ms"] = shown
    if wide:
        cpu = result.cpu_ms_per_inference
        cells["CPU ms"] = "-" if cpu is None else milliseconds(cpu)
    return cells


def _measured(row: Row, result: Measured) -> dict[str, str]:
    values = result.latency_ms
    mean = sum(values) / len(values)
    parity = result.parity
    return {
        "mean ms": milliseconds(mean),
        "images/s": f"{row.settings.batch * 1000 / mean:.0f}",
        "load ms": milliseconds(result.load_ms),
        "first ms": milliseconds(result.first_ms),
        "RSS MiB": f"{result.peak_rss_mib:.0f}",
        "MiB": f"{result.size_bytes / MIB:.2f}",
        "accuracy [95 %]": percent(result.accuracy) if result.accuracy else "-",
        "parity": f"{parity.top1_agreement:.0%}, {parity.max_abs_error:.0e}" if parity else "-",
        "speed-up [95 %]": _speed_up(row),
    }
