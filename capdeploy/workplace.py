"""Where output is made: all of it appears at once, or none of it."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from capdeploy import bundle, textfile
from capdeploy.errors import OutputExistsError, UsageError

LOCK = ".lock"
"""Held by who works in a temporary folder; the kernel lets go of it when that process ends."""


@contextmanager
def open_workplace(
    output: Path,
    *,
    force: bool = False,
    adopt: Path | None = None,
    salvage: Callable[[Path], bool] = lambda _: False,
    scrap: str | None = None,
) -> Iterator[Path]:
    """Give a temporary folder that becomes `output` when the block ends well.

    Parameters
    ----------
    output : Path
        The folder to make.
    force : bool
        Replace `output` if it exists.
    adopt : Path | None
        An `unfinished` folder to go on in; None begins an empty one.
    salvage : Callable[[Path], bool]
        Asked if the block fails: whether the folder holds something to go on from; it is removed
        otherwise.
    scrap : str | None
        A folder in it that is removed at the very end: it is of use only until then.

    Yields
    ------
    Path
        A folder beside `output`, on the same file system.

    Raises
    ------
    OutputExistsError
        If `output` exists and `force` is false, or it is not the output of an earlier run.
    UsageError
        If the parent folder cannot be written to.
    """
    refuse_existing(output, force=force)
    above = [each for each in output.absolute().parents if not each.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        work, lock = _begin(output) if adopt is None else _take(adopt)
    except OSError as error:
        raise UsageError(f"{output.parent} cannot be written to: {error.strerror}") from error
    done = False
    try:
        yield work
        refuse_existing(output, force=force)
        (work / LOCK).unlink(missing_ok=True)
        _replace(work, output)
        done = True
        if scrap is not None:  # not before: if the move fails, it is what can be gone on from
            shutil.rmtree(output / scrap, ignore_errors=True)
        for left in _left(output):  # of runs that nobody will go on with any more
            shutil.rmtree(left, ignore_errors=True)
    finally:
        if done or not salvage(work):
            shutil.rmtree(work, ignore_errors=True)
        elif not (work / LOCK).exists():
            (work / LOCK).touch()
        lock.release()
        for each in above if not done else ():
            with contextlib.suppress(OSError):  # somebody else's by now, or our unfinished work's
                each.rmdir()


def _begin(output: Path) -> tuple[Path, BaseFileLock]:
    """Make a folder that is locked before it has the name by which others find it."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{output.name}.begun-", dir=output.parent))
    lock = FileLock(fresh / LOCK)
    random = fresh.name.rpartition("-")[2]
    try:
        # Where there are no locks, nobody can tell that a run has ended, and none goes on with it.
        with contextlib.suppress(NotImplementedError):
            lock.acquire(timeout=0)
        fresh.chmod(0o755)
        return fresh.rename(fresh.with_name(f".{output.name}.partial-{random}")), lock
    except BaseException:  # raised again: not even Ctrl-C may leave the folder behind
        lock.release()
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _take(adopt: Path) -> tuple[Path, BaseFileLock]:
    """Go on in an abandoned folder; of two who try, one fails."""
    lock = FileLock(adopt / LOCK)
    try:
        if not (adopt / LOCK).is_file():
            raise FileNotFoundError(adopt)
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError) as error:  # taken (a Timeout is one), or moved
        raise UsageError(f"another run goes on with {adopt} already; wait for it") from error
    return adopt, lock


def unfinished(output: Path, mark: str) -> Path | None:
    """Find the folder of a run for `output` that ended before its time; the latest of several.

    Parameters
    ----------
    output : Path
        What the run was to make.
    mark : str
        A file that it must hold.

    Returns
    -------
    Path | None
        A folder in which nobody works any more; None if there is none.
    """
    left = [path for path in _left(output) if (path / mark).is_file()]
    return max(left, key=lambda path: path.stat().st_mtime, default=None)


def at_work(output: Path, mark: str) -> Path | None:
    """Find the folder of a run for `output` that somebody works in, and that holds `mark`."""
    left = _left(output)
    return next((path for path in _drafts(output)
                 if path not in left and (path / mark).is_file()), None)  # fmt: skip


def _drafts(output: Path) -> list[Path]:
    found = output.parent.glob(f".{glob.escape(output.name)}.partial-*")
    return [path for path in found if path.is_dir()]


def _left(output: Path) -> list[Path]:
    return [path for path in _drafts(output) if _abandoned(path)]


def _abandoned(work: Path) -> bool:
    if not (work / LOCK).is_file():
        return False  # of an older version; it cannot be asked
    lock = FileLock(work / LOCK)
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError):  # held (a Timeout is one), or there are no locks here
        return False
    lock.release()
    return (work / LOCK).is_file()


def refuse_existing(output: Path, *, force: bool) -> None:
    """Stop early if the output folder is there already and may not be replaced."""
    if not output.exists():
        return
    if not force:
        raise OutputExistsError(f"{output} exists; choose another --output or add --force")
    refuse_standing(output)
    if not is_empty(output) and not (output / bundle.RECIPE).is_file():
        raise OutputExistsError(
            f"{output} is not the output of an earlier run (it has no {bundle.RECIPE}), so "
            "--force will not replace it; choose another --output"
        )


def is_empty(path: Path) -> bool:
    """Tell whether a path is a folder with nothing in it."""
    return path.is_dir() and not any(path.iterdir())


def refuse_standing(output: Path, *, mounted: bool = True) -> None:
    """Stop early if a folder cannot be replaced; one that is `mounted` can be emptied at least."""
    stays = (
        "a file system is mounted there" if mounted and os.path.ismount(output)
        else "it is the folder that this runs in" if Path.cwd().is_relative_to(output.resolve())
        else None
    )  # fmt: skip
    if stays is not None:
        raise OutputExistsError(
            f"{output} cannot be replaced, {stays}; choose a folder in it, such as {output / 'run'}"
        )


def refuse_losing(output: Path, file: Path) -> None:
    """Stop early if replacing a folder would delete a file that the run begins with."""
    if file.resolve().is_relative_to(output.resolve()):
        raise OutputExistsError(
            f"{file} lies in {output}, which --force would delete; choose another --output"
        )


def require_place(output: Path) -> None:
    """Stop before the work if a folder could not be made after it.

    Parameters
    ----------
    output : Path
        The folder to be made later.

    Raises
    ------
    UsageError
        If what it is to be made in is no folder, or cannot be written to.
    """
    there = next(each for each in output.absolute().parents if each.exists())
    if not there.is_dir():
        raise UsageError(f"{output} cannot be made: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{output} cannot be made: {there} cannot be written to")


def _replace(work: Path, output: Path) -> None:
    # The old folder steps aside first: a failed rename must leave one whole folder, never none.
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.old-", dir=output.parent))
    try:
        if output.exists():
            output.rename(aside / output.name)
        work.rename(output)
    finally:
        old = aside / output.name
        if old.exists() and not output.exists():
            old.rename(output)
        shutil.rmtree(aside, ignore_errors=True)


def cache() -> Path:
    """Name the folder for what may be computed again; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "capdeploy"


def recall(file: Path) -> Any:
    """Read a JSON document from the cache; None if there is none, or it is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(file: Path, document: Any) -> None:
    """Write a JSON document into the cache; where that cannot be written to, nothing is kept."""
    with contextlib.suppress(OSError, UsageError):
        file.parent.mkdir(parents=True, exist_ok=True)
        textfile.write(file, json.dumps(document), force=True)
