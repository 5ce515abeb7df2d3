"""What a tuning says, as a table."""

from __future__ import annotations

from capdeploy.bench.tune import LEAST_EFFECT, MULTIPLES
from capdeploy.report.tables import Table, milliseconds
from capdeploy.values.tuning import Effect, ProbedBlock, Tuning

SHOWN = (48, 56, 57, 60, 62, 63, 64)


def table(tuning: Tuning) -> Table:
    """Show the times at telling widths, the excess of every multiple, and what pays."""
    columns = (
        "runtime", "layers", *(f"{width} ch ms" for width in SHOWN),
        *(f"off {multiple}" for multiple in MULTIPLES), "multiple",
    )  # fmt: skip
    rows = tuple(
        (
            probe.runtime,
            probe.block,
            *(milliseconds(probe.latency_ms[probe.widths.index(width)]) for width in SHOWN),
            *map(_excess, probe.effects),
            str(probe.multiple),
        )
        for probe in tuning.probes
    )
    each = ", ".join(f"{name} {multiple}" for name, multiple in tuning.by_runtime.items())
    notes = [
        f"align = {tuning.align}: the largest multiple that pays in any runtime ({each})",
        "off m: how much slower widths half-way between two multiples of m are than the mean of "
        f"the two, bootstrap 95 %; m pays if all of the interval is above {LEAST_EFFECT:.0%}",
        f"{tuning.threads} thread(s), {_rounds(tuning.probes)} rounds, "
        f"{tuning.environment.cpu_model}",
    ]
    if tuning.unclear:
        notes.append(
            f"unclear, too noisy to tell: {', '.join(map(str, tuning.unclear))}; give more "
            "--seconds, or a quieter machine"
        )
    return Table("Channel multiples", columns, rows, tuple(notes))


def _excess(effect: Effect) -> str:
    mark = {"pays": "", "does not pay": "", "unclear": " ?"}[effect.verdict]
    return f"{effect.excess:+.0%} [{effect.low * 100:.0f}, {effect.high * 100:.0f}]{mark}"


def _rounds(probes: tuple[ProbedBlock, ...]) -> int:
    return min(probe.rounds for probe in probes)
