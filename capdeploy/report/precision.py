"""What fewer bits cost and save, runtime by runtime."""

from __future__ import annotations

from capdeploy.bench.stats import percentile
from capdeploy.report.tables import MIB, Table, milliseconds, percent
from capdeploy.values.artifact import Quantized
from capdeploy.values.report import BenchmarkReport, Measured, Metrics, RunReport

NOTE = (
    "lost: top-1 points against fp32 in the same runtime on the same test images, positive is "
    "worse, paired 95 %; times fp32: how many times faster than the same network's fp32 graph "
    "there, from both's interleaved speed-up over the head-cut network"
)


def precisions(report: RunReport) -> Table | None:
    """Show every graph in fewer bits beside its single-precision one; None if there is none."""
    benchmark = report.benchmark if isinstance(report.benchmark, BenchmarkReport) else None
    rows = [
        row for metrics in report.models for row in _rows(metrics, benchmark) if metrics.quantized
    ]
    if not rows:
        return None
    columns = (
        "model", "runtime", "precision", "accuracy [95 %]", "lost [95 %]", "MiB", "p50 ms",
        "times fp32", "verdict",
    )  # fmt: skip
    return Table("Precisions", columns, tuple(rows), (NOTE,))


def _rows(metrics: Metrics, benchmark: BenchmarkReport | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for runtime in dict.fromkeys(each.runtime for each in metrics.quantized):
        group = [each for each in metrics.quantized if each.runtime == runtime]
        whole = _measured(benchmark, metrics.name, runtime, "cpu", "fp32")
        rows.append((
            metrics.name, runtime, "fp32", percent(group[0].before), "",
            f"{metrics.artifact.size_bytes / MIB:.2f}", _latency(whole), "", "",
        ))  # fmt: skip
        for each in group:
            device = _device(benchmark, runtime, each.precision)
            found = _measured(benchmark, metrics.name, runtime, device, each.precision)
            times = _times(_measured(benchmark, metrics.name, runtime, device, "fp32"), found)
            shown = _latency(found) + ("" if device == "cpu" else f" ({device})")
            lost = each.drop
            rows.append((
                metrics.name, runtime, each.precision,
                "-" if each.after is None else percent(each.after),
                "-" if lost is None
                else f"{lost.points:+.1f} [{lost.low:+.1f}, {lost.high:+.1f}]",
                f"{each.size_bytes / MIB:.2f}", shown,
                "" if times is None else f"{times:.2f}x", _verdict(each, times),
            ))  # fmt: skip
    return rows


def _verdict(each: Quantized, times: float | None) -> str:
    if each.rejected is not None:
        return f"rejected: {each.rejected}"
    said = each.kept
    if times is not None and times < 1:
        said += "; slower than fp32 here"
    return said


def _times(whole: Measured | None, found: Measured | None) -> float | None:
    """Divide two speed-ups over the same baseline; that of the baseline itself is 1."""
    if whole is None or found is None or found.speed_up is None:
        return None
    return found.speed_up.ratio / (whole.speed_up.ratio if whole.speed_up is not None else 1.0)


def _measured(
    benchmark: BenchmarkReport | None, bundle: str, runtime: str, device: str, precision: str
) -> Measured | None:
    """Pick a row of the benchmark; half precision has no use but on a GPU, so it is beside that."""
    for row in benchmark.rows if benchmark is not None else ():
        at = row.settings
        here = (at.bundle, at.runtime, at.device, at.precision)
        if here == (bundle, runtime, device, precision) and isinstance(row.result, Measured):
            return row.result
    return None


def _device(benchmark: BenchmarkReport | None, runtime: str, precision: str) -> str:
    """Say where a precision was measured: on the CPU, unless it was elsewhere alone."""
    found = [
        row.settings.device for row in (benchmark.rows if benchmark is not None else ())
        if (row.settings.runtime, row.settings.precision) == (runtime, precision)
        and isinstance(row.result, Measured)
    ]  # fmt: skip
    return found[0] if found and "cpu" not in found else "cpu"


def _latency(result: Measured | None) -> str:
    return "-" if result is None else milliseconds(percentile(result.latency_ms, 50))
