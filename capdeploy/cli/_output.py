"""What every command shares. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def format_option(command: Command) -> Command:
    """Add ``-f/--format`` to a command."""
    return click.option(
        "-f", "--format", "style", type=click.Choice(["text", "json", "md"]), default="text",
        show_default=True, help="How to print the result.",
    )(command)  # fmt: skip


def tell(style: str, json_text: str, tables: Sequence[Any]) -> None:
    """Print a result in the chosen format.

    Parameters
    ----------
    style : str
        ``text``, ``json`` or ``md``.
    json_text : str
        The result as one JSON document.
    tables : Sequence[Any]
        `capdeploy.report.tables.Table` objects that show it.
    """
    try:
        if style == "json":
            click.echo(json_text.rstrip())
        elif style == "md":
            from capdeploy.report import markdown

            click.echo("\n\n".join(map(markdown.render, tables)))
        else:
            from capdeploy.report import text

            text.show(tables)
    except BrokenPipeError:
        leave_stdout()


def line(text: str) -> None:
    """Print a line to stdout; that who reads it has gone (`| head`) ends no work."""
    try:
        click.echo(text)
    except BrokenPipeError:
        leave_stdout()


def leave_stdout() -> None:
    """Write on into nothing: who read our output has gone (`| head`), but the work has not.

    Files are still to be written, and the exit code is the verdict's.
    """
    _leave(sys.stdout)


def _leave(stream: IO[str]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def aside(line: str) -> None:
    """Write a line to stderr; that who reads it has gone (`2>&1 | head`) ends no work either."""
    try:
        click.echo(line, err=True)
    except BrokenPipeError:
        _leave(sys.stderr)


class Progress:
    """Tells a run's progress on stderr: a moving bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._bar: Any = None
        self._step_start = self._start

    def step(self, name: str) -> None:
        """Begin a named step."""
        self._clear()
        self._step_start = time.monotonic()
        aside(f"[{self._step_start - self._start:6.1f} s] {name}")

    def note(self, message: str) -> None:
        """Say one thing."""
        self._clear()
        aside(f"             {message}")

    def advance(self, done: int, total: int, detail: str) -> None:
        """Move the bar; without a terminal, write a line at every quarter."""
        if sys.stderr.isatty():
            self._show(done, total, detail)
        elif done and (done * 4 // total != (done - 1) * 4 // total or total < 12):
            aside(f"             {done}/{total} {detail}".rstrip())

    def measured(self, values: Mapping[str, float], step: int = 0) -> None:
        """Show nothing: the tables at the end have these numbers."""

    def _show(self, done: int, total: int, detail: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bar is None:
            from rich.console import Console

            self._bar = Progress(
                BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn(),
                TextColumn("{task.description}"), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.add_task(detail, total=total)
            self._bar.start()
            # Whatever ends the command, the cursor has to come back.
            context = click.get_current_context(silent=True)
            if context is not None:
                context.call_on_close(self._clear)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, description=detail)
        if done >= total:
            self._clear()

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
