"""Is head slower or worse than base? Both in one session, interleaved, and three-valued.

The numbers of two runs at different times differ by more than any regression worth finding, even
on one machine; so base and head are always measured next to each other, several processes each
time, and base against itself tells how small a difference can be seen (docs/decisions/0011).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capdeploy import __version__, errors
from capdeploy.bench import child, effect, environment, facts, noise, sides
from capdeploy.bench.contest import Sampling, contest
from capdeploy.bench.reference import Reference
from capdeploy.bench.sides import Artefact
from capdeploy.bundle import Bundle
from capdeploy.errors import StepFailedError
from capdeploy.progress import Say
from capdeploy.runtimes import RUNTIMES, Runtime
from capdeploy.values.gate import Block, GateReport, GateRow, SkippedRow
from capdeploy.values.noise import Noise
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.report import Settings, Skipped
from capdeploy.values.verdict import Incomparable, Inconclusive, Kept, Regressed

WORKER = "capdeploy.bench.duel"
BLOCK_SECONDS = 300


@dataclass
class Processes:
    """Makes blocks of one row, one fresh process after the other.

    Parameters
    ----------
    base : Path
        What is compared with.
    head : Path
        What is compared.
    settings : Settings
        How it runs.
    sampling : Sampling
        Rounds of a block and the seed.
    """

    base: Path
    head: Path
    settings: Settings
    sampling: Sampling

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.sampling.seed} {self.settings}")
        self._turn = 0

    def blocks(self, count: int, *, itself: bool = False) -> list[Block]:
        """Measure some more blocks."""
        return [self._block(self.base if itself else self.head) for _ in range(count)]

    def _block(self, head: Path) -> Block:
        self._turn += 1
        job = {
            "base": str(self.base), "head": str(head), "settings": self.settings.model_dump(),
            "rounds": self.sampling.rounds, "turn": self._turn,
            "base_first": self._random.random() < 0.5,
        }  # fmt: skip
        answer = child.run(WORKER, job, threads=self.settings.threads, timeout=BLOCK_SECONDS)
        if "skipped" in answer:
            raise NotHereError(answer["skipped"])
        if "error" in answer:
            kind = getattr(errors, answer["error"], StepFailedError)
            raise kind(f"{self.settings.runtime} on {self.settings.device}: {answer['message']}")
        return Block.model_validate(answer["block"])


class NotHereError(Exception):
    """A runtime or device is not on this machine."""


def run(
    base: Path,
    head: Path,
    profile: HardwareProfile,
    *,
    sampling: Sampling,
    floors: dict[str, float],
    say: Say,
    trust_factory: bool = False,
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

    Returns
    -------
    GateReport
        Facts, rows and one verdict.

    Raises
    ------
    UsageError
        If a side is not there.
    SilentFallbackError
        If a runtime ran on another device than asked.
    """
    pair = (sides.read(base), sides.read(head))
    differing = sides.incomparable(*pair)
    wanted = [] if differing else _settings(pair, profile, trust_factory=trust_factory)
    with noise.watched() as watch:
        rows, skipped = _rows(pair, wanted, profile, sampling, floors, say)
    report = GateReport(
        tool_version=__version__,
        base=sides.side(pair[0]),
        head=sides.side(pair[1]),
        profile=profile.id,
        environment=environment.read(),
        noise=_with(watch.noise, rows),
        facts=() if differing else facts.compare(*pair, profile.gate),
        rows=tuple(rows),
        skipped=tuple(skipped),
        verdict=Incomparable(differing=differing) if differing else Kept(),
    )
    return report if differing else report.model_copy(update={"verdict": conclude(report)})


def _rows(
    pair: Sequence[Artefact],
    wanted: Sequence[tuple[Settings, str | None]],
    profile: HardwareProfile,
    sampling: Sampling,
    floors: dict[str, float],
    say: Say,
) -> tuple[list[GateRow], list[SkippedRow]]:
    rows: list[GateRow] = []
    skipped: list[SkippedRow] = []
    runnable = sum(reason is None for _, reason in wanted)
    for settings, reason in wanted:
        say.advance(len(rows), runnable, f"{settings.runtime} on {settings.device}")
        if reason is not None:
            skipped.append(SkippedRow(settings=settings, result=Skipped(reason=reason)))
            continue
        ring = Processes(_place(pair[0]), _place(pair[1]), settings, sampling)
        floor = floors.get(key(settings), 0.0)
        try:
            rows.append(contest(ring, settings, profile, sampling, floor=floor, rows=runnable))
        except NotHereError as error:
            absent = Skipped(reason=str(error), scope="machine")
            skipped.append(SkippedRow(settings=settings, result=absent))
        except child.ChildDiedError as error:
            broken = Skipped(reason=f"failed: {error}", failed=True)
            skipped.append(SkippedRow(settings=settings, result=broken))
    say.advance(runnable, runnable, "")
    return rows, skipped


def _with(noise: Noise | None, rows: Sequence[GateRow]) -> Noise | None:
    """Add what base against itself told of the machine, the loudest row's."""
    if noise is None:
        return None
    largest = max((row.noise for row in rows), default=None)
    return noise.model_copy(update={"aa_half_width": largest})


def conclude(report: GateReport) -> Regressed | Inconclusive | Kept:
    """Join facts and rows into one verdict: one regression decides, then one open question."""
    findings = [fact.finding for fact in report.facts if fact.outcome == "regressed"]
    findings += [_said(row) for row in report.rows if row.verdict == "regressed"]
    if findings:
        return Regressed(findings=tuple(findings))
    open_ = [_said(row) for row in report.rows if row.verdict in ("inconclusive", "too noisy")]
    open_ += [
        f"{row.settings.runtime} on {row.settings.device}: {row.result.reason}"
        for row in report.skipped if row.result.failed
    ]  # fmt: skip
    return Inconclusive(reasons=tuple(open_)) if open_ else Kept()


def _said(row: GateRow) -> str:
    return f"latency in {row.settings.runtime} on {row.settings.device}: {row.reason}"


def key(settings: Settings) -> str:
    """Name a way of running, for stored noise and history."""
    return (
        f"{settings.runtime} {settings.device} {settings.precision} "
        f"threads={settings.threads} batch={settings.batch}"
    )


def noise_floor(*, blocks: int = 3) -> float:
    """Measure how small a slowdown this machine can see, with a workload of our own.

    Parameters
    ----------
    blocks : int
        Processes to measure.

    Returns
    -------
    float
        A share: 0.02 means that a slowdown of about 2 % could be told from none.
    """
    runtime = str(Reference.effective["runtime"])
    settings = Settings(bundle="reference", runtime=runtime, device="cpu", threads=1)
    ring = Processes(Path(), Path(), settings, Sampling())
    found = effect.estimate(effect.log_ratios(ring.blocks(blocks), "cpu"))
    return effect.noise(found)


def _place(artefact: Artefact) -> Path:
    where = artefact.folder if isinstance(artefact, Bundle) else artefact.file
    return where.resolve()


def _settings(
    pair: Sequence[Artefact], profile: HardwareProfile, *, trust_factory: bool
) -> list[tuple[Settings, str | None]]:
    """List the ways of running, each with the reason why it cannot be, if there is one."""
    wanted = profile.runtime
    name = sides.side(pair[1]).name
    found = []
    for runtime in wanted.runtimes:
        shelf = RUNTIMES.load(runtime)
        reason = _obstacle(pair, shelf, trust_factory=trust_factory)
        for device in shelf.supports:
            if device in wanted.devices:
                settings = Settings(
                    bundle=name, runtime=runtime, device=device, precision=wanted.precision,
                    threads=wanted.threads, batch=wanted.batch,
                )  # fmt: skip
                found.append((settings, reason))
    return found


def _obstacle(pair: Sequence[Artefact], runtime: Runtime, *, trust_factory: bool) -> str | None:
    for each in pair:
        if isinstance(each, Bundle):
            code = runtime.foreign_code(each)
            if code is not None and not trust_factory:
                return f"its network is built by {code}; add --trust-factory if you trust it"
        elif runtime.needs_bundle:
            return f"{runtime.title} needs a bundle, not an ONNX file"
    return None
