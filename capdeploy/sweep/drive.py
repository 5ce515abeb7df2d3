"""Makes the runs of a sweep, several at a time if asked, and then measures them one by one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from capdeploy import bundle, pipeline, textfile, workplace
from capdeploy.bench import environment
from capdeploy.bench.child import THREAD_VARIABLES
from capdeploy.errors import (
    CapdeployError,
    ConfigError,
    OutputExistsError,
    StepFailedError,
    UsageError,
)
from capdeploy.progress import Quiet, Say
from capdeploy.stages import journal
from capdeploy.sweep import results
from capdeploy.sweep.grid import Cell, Grid
from capdeploy.values.recipe import Recipe
from capdeploy.values.report import BenchmarkReport, RunReport, Skipped
from capdeploy.values.sweep import Failure, SweepReport
from capdeploy.workers import cores

SWEEP, RUNS, LOGS, LOCK = "sweep-recipe.toml", "runs", "logs", ".lock"


def run(grid: Grid, folder: Path, say: Say, *, jobs: int = 1, resume: bool = False) -> SweepReport:
    """Make and measure every run of a sweep.

    Parameters
    ----------
    grid : Grid
        The runs.
    folder : Path
        Gets ``runs/``, ``logs/``, ``results.jsonl`` and ``sweep.json``.
    say : Say
        Hears of every run.
    jobs : int
        Runs that are made at a time; each gets its share of the cores. Runs with a budget of
        latency are made alone, and measuring begins when all are made: nothing else runs then.
    resume : bool
        Go on in a folder that has such a sweep.

    Returns
    -------
    SweepReport
        What there is; runs that failed are named in it and did not cost the others.

    Raises
    ------
    OutputExistsError
        If the folder exists and is not to be gone on with.
    ConfigError
        If a run in it was made from another recipe.
    """
    _prepare(grid, folder, resume=resume)
    with _alone(folder):
        digests: dict[str, str] = {}
        for cell in grid.cells:
            _refuse_other(cell, folder / RUNS / cell.name, digests)
        textfile.write(folder / SWEEP, grid.text, force=True)
        failures = _make(grid.cells, folder, say, jobs)
        say.step("measure")
        failures += [found for cell in grid.cells if (found := _measured(cell, folder, say))]
        report = results.collect(grid, folder / RUNS, failures)
        results.write(report, folder)
    return report


def require(report: SweepReport) -> None:
    """Stop with an error if a run of a sweep failed, after the others have been shown."""
    if report.failures:
        first = report.failures[0]
        raise StepFailedError(
            f"{len(report.failures)} failure(s) in the sweep, first {first.run}: {first.error}; "
            "--resume tries again what is not made"
        )


def _prepare(grid: Grid, folder: Path, *, resume: bool) -> None:
    ours = (folder / SWEEP).is_file()
    if folder.exists() and not (resume and ours) and not _bare(folder):
        hint = "--resume goes on with it" if ours else "it is no sweep; choose another --output"
        raise OutputExistsError(f"{folder} exists; {hint}")
    try:
        for name in (RUNS, LOGS):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written to: {error.strerror}") from error


def _bare(folder: Path) -> bool:
    """Tell whether a folder has nothing in it, or no more than a sweep that could not begin."""
    return folder.is_dir() and all(
        each.name == LOCK or (each.name in (RUNS, LOGS) and workplace.is_empty(each))
        for each in folder.iterdir()
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder: two sweeps in it would undo each other's work."""
    lock = FileLock(folder / LOCK)
    try:
        # Where there are no locks, nobody can tell.
        with contextlib.suppress(NotImplementedError):
            lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"another sweep is at work in {folder}; wait for it") from error
    try:
        yield
    finally:
        lock.release()


def _refuse_other(cell: Cell, output: Path, digests: dict[str, str]) -> None:
    """Stop if a run that is made already, or was begun, was made from something else.

    Checkpoints are hashed once; `digests` has those that were, by file.
    """
    file = output / bundle.RECIPE
    if not file.is_file():
        try:
            journal.find(cell.recipe, output, Quiet(), resume=True)
        except ConfigError as error:
            left = workplace.unfinished(output, f"{journal.JOURNAL}/{journal.BEGUN}")
            raise ConfigError(f"{left} is of another run ({error}); remove it") from error
        return
    found = Recipe.from_plain(tomllib.loads(file.read_text(encoding="utf-8")), source=str(file))
    old, new = found.model_dump(mode="json"), cell.recipe.model_dump(mode="json")
    for key in new:
        if old[key] != new[key] and key not in journal.LATER:
            raise ConfigError(
                f"{output} was made with {key} = {old[key]}, the sweep now says {new[key]}; "
                "choose another --output, or remove that folder"
            )
    named = cell.recipe.checkpoint
    if Path(named).is_file():  # where it is gone, what was made of it is still good
        if named not in digests:
            digests[named] = bundle.digest(Path(named))
        made_from = bundle.read(output / bundle.BASELINE).manifest.checkpoint.sha256
        if digests[named] != made_from:
            raise ConfigError(
                f"checkpoint {named} has changed since {output} was made from it; "
                "choose another --output, or remove that folder"
            )


def _make(cells: Sequence[Cell], folder: Path, say: Say, jobs: int) -> list[Failure]:
    """Make what is not made yet; what needs a quiet machine comes first, one at a time."""
    left = [cell for cell in cells if not (folder / RUNS / cell.name).is_dir()]
    timed = [
        cell
        for cell in left
        if any(budget.of_latency or budget.measured for budget in cell.recipe.budgets())
    ]
    others = [cell for cell in left if cell not in timed]
    if len(left) < len(cells):
        say.note(f"{len(cells) - len(left)} of {len(cells)} runs are made already")
    return _side_by_side(timed, folder, say, 1) + _side_by_side(others, folder, say, jobs)


def _side_by_side(cells: Sequence[Cell], folder: Path, say: Say, jobs: int) -> list[Failure]:
    threads = max(1, cores() // jobs)
    failures: list[Failure] = []
    waiting = list(cells)
    running: dict[Future[str], Cell] = {}
    children: set[subprocess.Popen[str]] = set()
    done = 0
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    say.step(f"run {cell.name}")
                    running[pool.submit(_one, cell, folder, threads, children)] = cell
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell, done = running.pop(future), done + 1
                    if error := future.result():
                        say.note(f"{cell.name} failed: {error}")
                        failures.append(Failure(run=cell.name, point=dict(cell.point), error=error))
                    say.advance(done, len(cells), cell.name)
        except BaseException:
            # Raised again below: Ctrl-C and every error stop the children first, for the pool
            # would wait for them and they would work on unseen.
            for child in list(children):
                child.kill()
            raise
    return failures


def _one(cell: Cell, folder: Path, threads: int, children: set[subprocess.Popen[str]]) -> str:
    """Make one run; return what went wrong, or nothing."""
    recipe, log = folder / LOGS / f"{cell.name}.json", folder / LOGS / f"{cell.name}.log"
    textfile.write(recipe, cell.recipe.model_copy(update={"bench": False}).to_json(), force=True)
    variables = {name: str(threads) for name in THREAD_VARIABLES}
    words = [str(recipe), str(folder / RUNS / cell.name), str(threads)]
    # -P: the folder that the user stands in may not shadow a module.
    command = [sys.executable, "-P", "-m", "capdeploy.sweep.child", *words]
    with (
        log.open("a", encoding="utf-8") as stream,
        subprocess.Popen(
            command, env={**os.environ, **variables}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=stream, text=True, errors="replace",
        ) as child,
    ):  # fmt: skip
        children.add(child)
        said = child.stdout.read() if child.stdout is not None else ""
        code = child.wait()
        children.discard(child)
    if code == 0:
        return ""
    lines = said.strip().splitlines()
    return lines[-1] if lines else f"its process ended with {code}; see {log}"


def _measured(cell: Cell, folder: Path, say: Say) -> Failure | None:
    """Measure a run that is there; return what went wrong."""
    output = folder / RUNS / cell.name
    if not output.is_dir() or not cell.recipe.bench:
        return None
    try:
        _measure(cell, output, say)
    except CapdeployError as error:
        return Failure(run=cell.name, point=dict(cell.point), error=f"not measured: {error}")
    return None


def _measure(cell: Cell, output: Path, say: Say) -> None:
    """Measure a run that is not measured yet, or of which a row failed."""
    file = output / pipeline.REPORT
    if not file.is_file():
        raise StepFailedError(f"{output} has no {file.name}; remove it, and --resume makes it anew")
    before = RunReport.from_json(file.read_bytes(), source=str(file)).benchmark
    if isinstance(before, BenchmarkReport) and not before.missing and not _failed(before):
        if not (differing := environment.read().differing(before.environment)):
            return
        say.note(f"{cell.name} was measured elsewhere ({differing[0]}): again")
    else:
        say.note(cell.name)
    after = pipeline.measure(cell.recipe, output, say).benchmark
    if isinstance(after, BenchmarkReport) and after.missing:
        raise KeyboardInterrupt


def _failed(report: BenchmarkReport) -> bool:
    return any(isinstance(row.result, Skipped) and row.result.failed for row in report.rows)
