"""``capdeploy gate``: say whether head is slower or worse than base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from capdeploy.cli import _gate
from capdeploy.cli._output import Progress, aside, format_option, tell

REGRESSED, INCONCLUSIVE = 1, 5


@click.command()
@_gate.options
@format_option
def command(style: str, **flags: Any) -> int:
    """Compare HEAD with BASE: bundles (or runs with one compressed bundle), or ONNX files.

    Exit code 1 only for a regression beyond doubt; 5 under --strict if there is no answer.
    """
    from capdeploy import textfile
    from capdeploy.bench import calibrate, gate, history
    from capdeploy.bench.environment import read
    from capdeploy.errors import UsageError
    from capdeploy.report import gate as shown

    base, head, profile, sampling = _gate.asked(flags)
    log: Path | None = flags["history"]
    entries = history.read(log) if log is not None else ()
    trust = flags["trust_factory"]
    if flags["calibrate"]:
        found = calibrate.run(
            base, profile, flags["calibrate"], sampling=sampling, say=Progress(),
            trust_factory=trust,
        )  # fmt: skip
        tell(style, found.to_json(), [shown.calibration(found)])
        if log is not None and found.rows:
            history.append(log, history.calibrated(found))
        return calibrate.exit_code(found)
    floors = history.floors(entries, read())
    report = gate.run(
        base, head, profile, sampling=sampling, floors=floors, say=Progress(), trust_factory=trust,
        required=[*(flags["runtimes"] or ()), *(flags["devices"] or ())],
    )  # fmt: skip
    now = history.entry(report)
    if flags["base"] is None:
        report = history.judged(report, now, entries)
    tell(style, report.to_json(), shown.tables(report))
    code = _exit_code(report.verdict.kind, gate.exit_code(report), strict=flags["strict"])
    try:
        try:
            if flags["junit"] is not None:
                textfile.write(flags["junit"], shown.junit(report), force=True)
        finally:
            if log is not None and report.rows:
                history.append(log, now)
    except (OSError, UsageError) as error:
        if code != REGRESSED:
            raise
        aside(f"capdeploy: {error}")  # a regression is not to be hidden by a full disk
    return code


def _exit_code(verdict: str, failed: int, *, strict: bool) -> int:
    if verdict == "regressed":
        return REGRESSED
    return failed or (INCONCLUSIVE if strict and verdict != "kept" else 0)
