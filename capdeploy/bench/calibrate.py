"""How well this machine can judge: a bundle against itself, as often as asked."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from capdeploy.bench import effect, gate
from capdeploy.bench.contest import Sampling
from capdeploy.errors import MissingDeviceError
from capdeploy.progress import Quiet, Say
from capdeploy.values.gate import CalibratedRow, Calibration, GateReport, GateRow
from capdeploy.values.profile import HardwareProfile


def run(
    base: Path,
    profile: HardwareProfile,
    times: int,
    *,
    sampling: Sampling,
    say: Say,
    trust_factory: bool = False,
) -> Calibration:
    """Gate a bundle against itself several times.

    Parameters
    ----------
    base : Path
        A bundle or an ONNX file.
    profile : HardwareProfile
        Runtimes, devices, threads, batch, and what change counts.
    times : int
        How many comparisons.
    sampling : Sampling
        How much each of them measures; each has a seed of its own.
    say : Say
        Hears of every comparison.
    trust_factory : bool
        Allow the bundle to name code of its own that builds its network.

    Returns
    -------
    Calibration
        For each row all ratios, the false alarms among them and the noise.
    """
    reports: list[GateReport] = []
    for time in range(times):
        say.advance(time, times, f"comparison {time + 1} of {times}")
        own = replace(sampling, seed=sampling.seed + time)
        reports.append(
            gate.run(
                base,
                base,
                profile,
                sampling=own,
                floors={},
                say=Quiet(),
                trust_factory=trust_factory,
            )
        )
    say.advance(times, times, "")
    rows: dict[str, list[GateRow]] = {}
    for report in reports:
        for row in report.rows:
            rows.setdefault(gate.key(row.settings), []).append(row)
    # What broke in one comparison is told, though others went well.
    skipped = {
        (gate.key(row.settings), row.result.reason): row
        for report in reports for row in report.skipped
    }  # fmt: skip
    last = reports[-1]
    return Calibration(
        base=last.base, profile=profile.id, environment=last.environment,
        rows=tuple(map(_calibrated, rows.values())), skipped=tuple(skipped.values()),
    )  # fmt: skip


def exit_code(found: Calibration) -> int:
    """Tell what went wrong: the code of what broke; else 3 if there was nothing to measure with."""
    broken = max((row.exit_code for row in found.skipped), default=0)
    return broken or (0 if found.rows else MissingDeviceError.exit_code)


def _calibrated(rows: Sequence[GateRow]) -> CalibratedRow:
    return CalibratedRow(
        settings=rows[0].settings,
        ratios=tuple(row.effect.ratio for row in rows),
        verdicts=tuple(row.verdict for row in rows),
        # The usual noise, not the worst: one burst must not blunt every later gate.
        noise=statistics.median(effect.noise(row.effect) for row in rows),
        visible=statistics.median(row.visible for row in rows),
    )
