"""Is head slower or worse than base? Both in one session, interleaved, and three-valued.

The numbers of two runs at different times differ by more than any regression worth finding, even
on one machine; so base and head are always measured next to each other, several processes each
time, and base against itself tells how small a difference can be seen (docs/decisions/0011).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from capdeploy import __version__
from capdeploy import bundle as bundles
from capdeploy.bench import child, environment, facts, noise, sides
from capdeploy.bench.contest import Sampling, contest
from capdeploy.bench.processes import NotHereError, Processes
from capdeploy.bench.sides import Artefact
from capdeploy.bundle import Bundle
from capdeploy.errors import CapdeployError, ConfigError
from capdeploy.progress import Say
from capdeploy.runtimes import RUNTIMES, Runtime
from capdeploy.values.gate import GateReport, GateRow, SkippedRow
from capdeploy.values.noise import Noise
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.report import Settings, Skipped
from capdeploy.values.verdict import Incomparable, Inconclusive, Kept, Regressed


def run(
    base: Path,
    head: Path,
    profile: HardwareProfile,
    *,
    sampling: Sampling,
    floors: dict[str, float],
    say: Say,
    trust_factory: bool = False,
    required: Collection[str] = (),
) -> GateReport:
    """Compare two artefacts: facts exactly, latency against the noise of this machine.

    Parameters
    ----------
    base : Path
        A bundle's folder or an ONNX file: what is compared with.
    head : Path
        What is compared.
    profile : HardwareProfile
        Runtimes, devices, threads, batch, and what change counts.
    sampling : Sampling
        How much is measured.
    floors : dict[str, float]
        Noise of rows on this machine that an earlier calibration found, by `key`.
    say : Say
        Hears of every row.
    trust_factory : bool
        Allow bundles to name code of their own that builds their network.
    required : Collection[str]
        Runtimes and devices that somebody asked for by name: without one of them there is no
        answer. What only the profile lists may be missing.

    Returns
    -------
    GateReport
        Facts, rows and one verdict.

    Raises
    ------
    UsageError
        If a side is not there, or takes another number of images a call than is asked for.
    ConfigError
        If the profile leaves nothing to measure.
    DigestError
        If a bundle is not what its manifest says.
    """
    pair = (sides.read(base), sides.read(head))
    for each in pair:
        if isinstance(each, Bundle):
            bundles.verify(each)
    differing = sides.incomparable(*pair)
    wanted = [] if differing else _settings(pair, profile, trust_factory=trust_factory)
    if not wanted and not differing:
        raise ConfigError(
            f"profile {profile.id} leaves nothing to measure: no runtime of "
            f"{', '.join(profile.runtime.runtimes)} runs on {', '.join(profile.runtime.devices)}"
        )
    with noise.watched() as watch:
        rows, skipped = _rows(pair, wanted, profile, sampling, floors, say, trust_factory)
    report = GateReport(
        tool_version=__version__,
        base=sides.side(pair[0]),
        head=sides.side(pair[1]),
        profile=profile.id,
        environment=environment.read(),
        noise=_with(watch.noise, rows),
        facts=() if differing else facts.of(*pair, profile),
        rows=tuple(rows),
        skipped=tuple(skipped),
        verdict=Incomparable(differing=differing) if differing else Kept(),
    )
    return (
        report if differing else report.model_copy(update={"verdict": conclude(report, required)})
    )


def _rows(
    pair: Sequence[Artefact],
    wanted: Sequence[tuple[Settings, Skipped | None]],
    profile: HardwareProfile,
    sampling: Sampling,
    floors: dict[str, float],
    say: Say,
    trust_factory: bool,
) -> tuple[list[GateRow], list[SkippedRow]]:
    rows: list[GateRow] = []
    skipped: list[SkippedRow] = []
    runnable = sum(obstacle is None for _, obstacle in wanted)
    together = max(runnable, sampling.together)
    for settings, obstacle in wanted:
        say.advance(len(rows), runnable, f"{settings.runtime} on {settings.device}")
        if obstacle is not None:
            skipped.append(SkippedRow(settings=settings, result=obstacle))
            continue
        places, limit = [_place(each) for each in pair], sides.seconds(pair, settings.batch)
        ring = Processes(places[0], places[1], settings, sampling, trust_factory, limit)
        floor = floors.get(key(settings), 0.0)
        try:
            rows.append(contest(ring, settings, profile, sampling, floor=floor, rows=together))
        except NotHereError as error:
            absent = Skipped(reason=str(error), scope="machine")
            skipped.append(SkippedRow(settings=settings, result=absent))
        except (child.ChildDiedError, CapdeployError) as error:
            # The other rows and the facts are still worth telling; the exit code follows later.
            code = error.exit_code if isinstance(error, CapdeployError) else 4
            side = ring.at_fault
            broken = Skipped(reason=f"failed: {side} does not run: {error}", failed=True)
            skipped.append(SkippedRow(settings=settings, result=broken, side=side, exit_code=code))
    say.advance(runnable, runnable, "")
    return rows, skipped


def _with(noise: Noise | None, rows: Sequence[GateRow]) -> Noise | None:
    """Add what base against itself told of the machine, the loudest row's."""
    if noise is None:
        return None
    largest = max((row.noise for row in rows), default=None)
    return noise.model_copy(update={"aa_half_width": largest})


def conclude(report: GateReport, required: Collection[str] = ()) -> Regressed | Inconclusive | Kept:
    """Join facts and rows into one verdict: one regression decides, then one open question."""
    findings = [fact.finding for fact in report.facts if fact.outcome == "regressed"]
    findings += [_said(row) for row in report.rows if row.verdict == "regressed"]
    findings += [_why(row) for row in report.skipped if row.side == "head"]
    if findings:
        return Regressed(findings=tuple(findings))
    open_ = [fact.finding for fact in report.facts if fact.finding]
    open_ += [_said(row) for row in report.rows if row.verdict in ("inconclusive", "too noisy")]
    open_ += [_why(row) for row in report.skipped if row.result.failed]
    open_ += _absent(report, required)
    if not report.rows and not open_:
        open_ = ["no latency was measured", *map(_why, report.skipped)]
    return Inconclusive(reasons=tuple(open_)) if open_ else Kept()


def _absent(report: GateReport, required: Collection[str]) -> Iterator[str]:
    """Say which runtime or device was asked for by name, and nothing was measured there."""
    for name in required:
        if any(name in (row.settings.runtime, row.settings.device) for row in report.rows):
            continue
        skipped = [
            row for row in report.skipped if name in (row.settings.runtime, row.settings.device)
        ]
        missing = [row for row in skipped if row.result.scope != "row"]
        if missing:
            yield _why(missing[0])
        elif not skipped:
            yield f"nothing that was asked for runs on {name}"


def exit_code(report: GateReport) -> int:
    """Tell what went wrong beside the verdict: 0 if every row could be measured or is not here."""
    return max((row.exit_code for row in report.skipped if row.side == "base"), default=0)


def _why(row: SkippedRow) -> str:
    return f"{row.settings.engine} on {row.settings.device}: {row.result.reason}"


def _said(row: GateRow) -> str:
    return f"latency in {row.settings.engine} on {row.settings.device}: {row.reason}"


def key(settings: Settings) -> str:
    """Name a way of running, for stored noise and history."""
    return (
        f"{settings.runtime} {settings.device} {settings.precision} "
        f"threads={settings.threads} batch={settings.batch}"
    )


def _place(artefact: Artefact) -> Path:
    # A link is not followed: weights that lie beside a graph may lie beside its link only.
    return (artefact.folder if isinstance(artefact, Bundle) else artefact.file).absolute()


def _settings(
    pair: Sequence[Artefact], profile: HardwareProfile, *, trust_factory: bool
) -> list[tuple[Settings, Skipped | None]]:
    """List the ways of running, each with the reason why it cannot be, if there is one."""
    wanted = profile.runtime
    name, batch = sides.side(pair[1]).name, sides.batch(pair, wanted.images_at_once)
    found = []
    for runtime in wanted.runtimes:
        shelf = RUNTIMES.load(runtime)
        obstacle = _obstacle(pair, shelf, trust_factory=trust_factory)
        shipped = _precision(pair, runtime, wanted.precision)
        for device in shelf.supports:
            if device in wanted.devices:
                precision = "fp32" if (shipped, device) in shelf.pointless else shipped
                settings = Settings(
                    bundle=name, runtime=runtime, device=device, precision=precision,
                    threads=wanted.threads, batch=batch,
                    scenario=wanted.scenario,
                )  # fmt: skip
                found.append((settings, obstacle))
    return found


def _precision(pair: Sequence[Artefact], runtime: str, wanted: str) -> str:
    """Say what is compared: what the device ships, where a bundle has it; bare files as they are.

    If only one of two bundles has it, the other one is told to lack it.
    """
    bundles = [each for each in pair if isinstance(each, Bundle)]
    has = any(wanted in each.precisions(runtime) for each in bundles)
    return wanted if has and len(bundles) == len(pair) else "fp32"


def _obstacle(pair: Sequence[Artefact], runtime: Runtime, *, trust_factory: bool) -> Skipped | None:
    for each in pair:
        if isinstance(each, Bundle):
            code = runtime.foreign_code(each)
            if code is not None and not trust_factory:
                hint = "add --trust-factory if you trust it"
                return Skipped(reason=f"its network is built by {code}; {hint}", scope="trust")
        elif runtime.needs_bundle:
            return Skipped(reason=f"{runtime.title} needs a bundle, not an ONNX file")
    return None
