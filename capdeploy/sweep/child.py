"""One run of a sweep in a process of its own, which ends when the sweep does.

Run as ``python -m capdeploy.sweep.child RECIPE OUTPUT THREADS``; progress goes to stderr, an error
that a user should read is the last line of stdout.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from capdeploy import errors
from capdeploy.values.recipe import Recipe

FAILED = 4


class Lines:
    """Listens to a run and writes plain lines to stderr."""

    def step(self, name: str) -> None:
        """Begin a named step."""
        sys.stderr.write(f"{name}\n")
        sys.stderr.flush()

    def note(self, message: str) -> None:
        """Say one thing."""
        self.step(f"  {message}")

    def advance(self, done: int, total: int, detail: str) -> None:
        """Write a line at every quarter."""
        if done and done * 4 // total != (done - 1) * 4 // total:
            self.step(f"  {done}/{total} {detail}".rstrip())

    def measured(self, values: Mapping[str, float], step: int = 0) -> None:
        """Write nothing: the run's report has these numbers."""


def _end_with_parent() -> None:
    """End this process when the sweep's is gone, however it went: its pipe closes."""
    while os.read(0, 4096):  # not sys.stdin, whose lock would be held at the very end
        pass
    os._exit(errors.INTERRUPTED)


def main() -> None:
    """Compress as a recipe says, going on where an earlier process broke off."""
    file, output, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import torch

        from capdeploy import pipeline

        torch.set_num_threads(threads)
        recipe = Recipe.from_json(file.read_bytes(), source=str(file))
        pipeline.compress(recipe, output, Lines(), resume=True)
    except errors.CapdeployError as error:
        sys.stdout.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error
    except Exception as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n".replace("\n", " ") + "\n")
        raise SystemExit(FAILED) from error


if __name__ == "__main__":
    main()
