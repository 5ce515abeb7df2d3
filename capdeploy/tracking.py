"""A listener that passes a run's numbers on to trackers; a tracker that fails is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from capdeploy.errors import CapdeployError
from capdeploy.progress import Say
from capdeploy.trackers import TRACKERS, Begin, Tracker
from capdeploy.values.recipe import Common


class Tracked:
    """Hears what another listener hears, and keeps the numbers in trackers.

    Parameters
    ----------
    say : Say
        Who else listens; hears of a tracker that fails.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._step = ""
        self._trackers: dict[str, Tracker] = {}

    def begin(self, name: str, begun: Callable[[], Tracker]) -> None:
        """Begin one tracker's run."""
        self._guarded(name, lambda: self._trackers.update({name: begun()}))

    def step(self, name: str) -> None:
        """Begin a named step."""
        self._step = name
        self._say.step(name)

    def note(self, message: str) -> None:
        """Pass a message on."""
        self._say.note(message)

    def advance(self, done: int, total: int, detail: str) -> None:
        """Pass progress on."""
        self._say.advance(done, total, detail)

    def measured(self, values: Mapping[str, float], step: int = 0) -> None:
        """Keep numbers; those without a place of their own belong to the present step."""
        placed = {
            name if "/" in name else f"{self._step}/{name}": value for name, value in values.items()
        }
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(tracker.log, placed, step))
        self._say.measured(placed, step)

    def end(self, *, failed: bool) -> None:
        """End all runs."""
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(tracker.end, failed=failed))

    def _guarded(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever it is, the run is worth more
            self._say.note(f"{name} does not track this run any more: {_line(error)}")
            self._trackers.pop(name, None)


@contextmanager
def tracked(recipe: Common, name: str, say: Say) -> Iterator[Say]:
    """Track a run as its recipe asks.

    Parameters
    ----------
    recipe : Common
        Names the trackers and their folder.
    name : str
        Of the run.
    say : Say
        Who else listens.

    Yields
    ------
    Say
        Whom to tell.

    Raises
    ------
    ConfigError
        If a tracker is unknown.
    MissingExtraError
        If its library is not installed: told before any work.
    """
    if not recipe.track:
        yield say
        return
    known = {each: begin for each in recipe.track if (begin := _loaded(each, say)) is not None}
    words = {key: str(value) for key, value in recipe.model_dump(mode="json").items()
             if value not in (None, [], {})}  # fmt: skip
    listener = Tracked(say)
    for each, begin in known.items():
        listener.begin(each, partial(begin, Path(recipe.track_folder), name, words))
    failed = True
    try:
        yield listener
        failed = False
    finally:
        listener.end(failed=failed)


def _loaded(name: str, say: Say) -> Begin | None:
    """Load a tracker; one whose library is there and broken is left out, and that is said."""
    try:
        return TRACKERS.load(name)
    except CapdeployError:
        raise
    except Exception as error:  # whatever it is, the run is worth more
        say.note(f"{name} does not track this run: {_line(error)}")
        return None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
