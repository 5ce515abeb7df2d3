"""Where output is made: all of it appears at once, or none of it."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from capdeploy import bundle
from capdeploy.errors import OutputExistsError, UsageError

OWNER = ".owner.json"
"""Who works in a temporary folder: a process that may have died since."""
RELEASED = {"pid": None}


def _nothing(work: Path) -> bool:
    return False


@contextmanager
def open_workplace(
    output: Path,
    *,
    force: bool = False,
    adopt: Path | None = None,
    salvage: Callable[[Path], bool] = _nothing,
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
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
        if adopt is not None:
            _take(adopt, work)
        (work / OWNER).write_text(json.dumps(_myself()))
        work.chmod(0o755)
    except OSError as error:
        raise UsageError(f"{output.parent} cannot be written to: {error.strerror}") from error
    done = False
    try:
        yield work
        refuse_existing(output, force=force)
        if scrap is not None:
            shutil.rmtree(work / scrap, ignore_errors=True)
        (work / OWNER).unlink(missing_ok=True)
        _replace(work, output)
        done = True
        for left in _left(output):  # of runs that nobody will go on with any more
            shutil.rmtree(left, ignore_errors=True)
    finally:
        if done or not salvage(work):
            shutil.rmtree(work, ignore_errors=True)
        else:
            remember(work / OWNER, RELEASED)


def _take(adopt: Path, work: Path) -> None:
    """Move an abandoned folder to a name of our own; of two who try, one fails."""
    try:
        (adopt / OWNER).write_text(json.dumps(_myself()))
        adopt.rename(work)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise UsageError(f"another run goes on with {adopt} already; wait for it") from error


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


def _left(output: Path) -> list[Path]:
    drafts = output.parent.glob(f".{glob.escape(output.name)}.partial-*")
    return [path for path in drafts if path.is_dir() and _abandoned(path)]


def _myself() -> dict[str, float | str]:
    started = psutil.Process().create_time()
    return {"host": platform.node(), "pid": os.getpid(), "started": started}


def _abandoned(work: Path) -> bool:
    owner = recall(work / OWNER)
    if owner == RELEASED:
        return True
    try:
        if owner["host"] != platform.node():
            return False  # its processes cannot be seen from here
        process = psutil.Process(int(owner["pid"]))
        return bool(abs(process.create_time() - float(owner["started"])) > 1)
    except psutil.NoSuchProcess:
        return True
    except (TypeError, KeyError, ValueError, psutil.Error):
        return False


def refuse_existing(output: Path, *, force: bool) -> None:
    """Stop early if the output folder is there already and may not be replaced."""
    if not output.exists():
        return
    if not force:
        raise OutputExistsError(f"{output} exists; choose another --output or add --force")
    ours = output.is_dir() and (not any(output.iterdir()) or (output / bundle.RECIPE).is_file())
    if not ours:
        raise OutputExistsError(
            f"{output} is not the output of an earlier run (it has no {bundle.RECIPE}), so "
            "--force will not replace it; choose another --output"
        )


def refuse_losing(output: Path, file: Path) -> None:
    """Stop early if replacing a folder would delete a file that the run begins with."""
    if file.resolve().is_relative_to(output.resolve()):
        raise OutputExistsError(
            f"{file} lies in {output}, which --force would delete; choose another --output"
        )


def require_writable(path: Path) -> None:
    """Stop before the work if a file could not be written after it.

    Parameters
    ----------
    path : Path
        The file to be written later.

    Raises
    ------
    UsageError
        If it is a folder, or its folder is not there or cannot be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise UsageError(f"{path} cannot be written to: permission denied")


def write_file(path: Path, text: str, *, force: bool = False) -> None:
    """Write one text file, in one move: a reader sees the old file or the new one.

    Parameters
    ----------
    path : Path
        The file; a link is followed.
    text : str
        All of its content.
    force : bool
        Replace the file if it exists; it keeps its mode.

    Raises
    ------
    OutputExistsError
        If the file exists and `force` is false.
    UsageError
        If the folder cannot be written to.
    """
    if path.exists() and not force:
        raise OutputExistsError(f"{path} exists; choose another --output or add --force")
    path = path.resolve()
    draft = None
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.partial-", delete=False
        ) as file:
            draft = Path(file.name)
            file.write(text)
        draft.chmod(mode)
        os.replace(draft, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


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
        write_file(file, json.dumps(document), force=True)
