"""One text file, written in one move: a reader sees the old one or the new one."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from capdeploy.errors import OutputExistsError, UsageError

STREAMS = (Path("/dev"), Path("/dev/fd"))
"""Where a process's own streams are: what is in them already, stays."""


def require_writable(path: Path, *, in_place: bool = False) -> None:
    """Stop before the work if a file could not be written after it.

    Parameters
    ----------
    path : Path
        The file to be written later.
    in_place : bool
        It is added to, not replaced by another one.

    Raises
    ------
    UsageError
        If it is a folder, or its folder is not there or cannot be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}")
    asked = [path] if path.exists() else []
    if not asked or (path.is_file() and not in_place):  # another one is made beside it
        asked.append(path.resolve().parent)
    for each in asked:
        if not os.access(each, os.W_OK):
            raise UsageError(f"{path} cannot be written: permission denied for {each}")


def write(path: Path, text: str, *, force: bool = False) -> None:
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
        If the file or its folder cannot be written to.
    OSError
        If there is no room left.
    """
    if path.exists() and not force:
        raise OutputExistsError(f"{path} exists; choose another --output or add --force")
    try:
        if path.parent in STREAMS or (path.exists() and not path.is_file()):
            with path.open("a", encoding="utf-8") as file:  # a terminal, a pipe; what stdout is
                file.write(text)
        else:
            replace(path.resolve(), text)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise UsageError(f"{path.resolve()} cannot be written: {error.strerror}") from error


def replace(path: Path, text: str) -> None:
    """Write or replace a text file in one move; it keeps its mode, and an error is the system's.

    One that is mounted by itself is written to where it is.
    """
    draft = None
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.partial-", delete=False
        ) as file:
            draft = Path(file.name)
            file.write(text)
        draft.chmod(mode)
        try:
            os.replace(draft, path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            path.write_text(text, encoding="utf-8")
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
