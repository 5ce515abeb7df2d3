"""Gate results of earlier days as JSON lines, and what may be concluded from them."""

from __future__ import annotations

import errno
import json
import os
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from capdeploy.bench.gate import key
from capdeploy.errors import ConfigError
from capdeploy.values.environment import Environment
from capdeploy.values.gate import Calibration, Fact, GateReport
from capdeploy.values.noun import SCHEMA_VERSION, Noun
from capdeploy.values.verdict import Incomparable, Inconclusive, Kept, Regressed

# Between two sittings on one machine, medians drifted by up to a third without any change: a
# difference beyond this is worth a look, and none is proof.
DRIFT = 0.35


class Entry(Noun):
    """One line: what head measured, or how far base was from itself."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    kind: Literal["gate", "calibration"]
    when: str = Field(description="ISO 8601, UTC")
    fingerprint: str = Field(description="of the machine's hard keys")
    environment: Environment
    head_sha256: str
    facts: tuple[Fact, ...] = ()
    head_ms: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="median CPU or wall time by row"
    )
    noise: dict[str, float] = Field(default={}, description="share by row")


def entry(report: GateReport) -> Entry:
    """Reduce a report to one line of history."""
    return Entry(
        kind="gate",
        when=_now(),
        fingerprint=report.environment.fingerprint,
        environment=report.environment,
        head_sha256=report.head.sha256,
        facts=report.facts,
        head_ms={
            key(row.settings): statistics.median(
                value
                for block in row.blocks
                for value in getattr(block, f"head_{row.judged_by}_ms")
            )
            for row in report.rows
        },
        noise={key(row.settings): row.noise for row in report.rows},
    )


def calibrated(found: Calibration) -> Entry:
    """Reduce a calibration to one line of history."""
    return Entry(
        kind="calibration",
        when=_now(),
        fingerprint=found.environment.fingerprint,
        environment=found.environment,
        head_sha256=found.base.sha256,
        noise={key(row.settings): row.noise for row in found.rows},
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def append(path: Path, new: Entry) -> None:
    """Add a line, all of it or none; what is there is never rewritten."""
    line = json.dumps(new.model_dump(mode="json"), separators=(",", ":")) + "\n"
    # One write of one line: two jobs that append at once do not mix their lines.
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        whole = (b"" if file.read(1) in (b"", b"\n") else b"\n") + line.encode()
        if file.write(whole) != len(whole):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read(path: Path) -> tuple[Entry, ...]:
    """Read all lines, the oldest first; a file that is not there holds none.

    Parameters
    ----------
    path : Path
        The history.

    Returns
    -------
    tuple[Entry, ...]
        Its entries.

    Raises
    ------
    ConfigError
        If a line is not an entry.
    """
    return tuple(_lines(path)) if path.exists() else ()


def _lines(path: Path) -> Iterator[Entry]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a history: it is not text") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield Entry.from_json(line, source=f"{path}, line {number}")


def floors(entries: tuple[Entry, ...], here: Environment) -> dict[str, float]:
    """Give the noise that calibrations on this very kind of machine found, the newest of each row.

    Parameters
    ----------
    entries : tuple[Entry, ...]
        The history.
    here : Environment
        This machine.

    Returns
    -------
    dict[str, float]
        Share by row.
    """
    found: dict[str, float] = {}
    for each in entries:
        if each.kind == "calibration" and each.fingerprint == here.fingerprint:
            found |= each.noise
    return found


def judged(report: GateReport, now: Entry, entries: tuple[Entry, ...]) -> GateReport:
    """Put the comparison with stored numbers into a report that found nothing wrong by itself.

    The newest line of this kind of machine counts; if there is none, the newest of any.
    """
    if isinstance(report.verdict, Regressed) and not any(
        fact.outcome == "regressed" for fact in report.facts
    ):
        # A network against itself cannot be slower: it is the machine that has no answer.
        open_ = Inconclusive(reasons=report.verdict.findings)
        return report.model_copy(update={"verdict": open_})
    stored = [each for each in entries if each.kind == "gate"]
    here = [each for each in stored if each.fingerprint == now.fingerprint]
    if not isinstance(report.verdict, Kept):
        return report
    if not stored:
        verdict: Incomparable | Inconclusive | Kept = Inconclusive(
            reasons=("the history holds no earlier gate to compare with",)
        )
    else:
        verdict = compare((here or stored)[-1], now)
    return report.model_copy(update={"verdict": verdict})


def compare(last: Entry, now: Entry) -> Incomparable | Inconclusive | Kept:
    """Compare today's numbers with stored ones.

    Parameters
    ----------
    last : Entry
        Stored.
    now : Entry
        Today's.

    Returns
    -------
    Incomparable | Inconclusive | Kept
        Never a regression: stored times drift by more than any that is worth finding.
    """
    if differing := now.environment.differing(last.environment):
        return Incomparable(differing=differing)
    common = now.head_ms.keys() & last.head_ms.keys()
    known = {fact.name: fact.head for fact in last.facts}
    reasons = [
        f"{fact.name}: {known[fact.name]} on {last.when}, {fact.head} now"
        for fact in now.facts
        if fact.name in known and known[fact.name] != fact.head
    ]
    reasons += [
        f"{row}: {now.head_ms[row] / last.head_ms[row] - 1:+.0%} against {last.when}; stored times "
        "drift: gate against that artefact with --base"
        for row in sorted(common)
        if abs(now.head_ms[row] / last.head_ms[row] - 1) > DRIFT
    ]
    if not common:
        reasons.append(f"the line of {last.when} has no row that was measured now")
    return Inconclusive(reasons=tuple(reasons)) if reasons else Kept()
