"""Reads what a system may or may not tell."""

from __future__ import annotations

import subprocess
from pathlib import Path


def text(path: Path) -> str:
    """Read a file, or nothing where there is none or the system does not let us."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def answer(*command: str, seconds: float = 5.0) -> str:
    """Ask a program, and take no answer for an empty one.

    Parameters
    ----------
    *command : str
        The program and its arguments.
    seconds : float
        How long to wait: a driver that hangs may not hang us.

    Returns
    -------
    str
        What it printed; empty if it is not there, failed, or took too long.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
