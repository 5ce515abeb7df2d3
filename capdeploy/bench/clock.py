"""Time, and a clock that ticks as told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Protocol


class Clock(Protocol):
    """Something that tells nanoseconds."""

    def now_ns(self) -> int:
        """Return nanoseconds since some fixed point; never falls."""


class WallClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """Return the monotonic clock."""
        return time.perf_counter_ns()


class FakeClock:
    """A clock for tests: each reading adds the next of the given steps, the last for ever.

    Parameters
    ----------
    steps_ns : Iterable[int]
        Nanoseconds between readings.

    Examples
    --------
    >>> clock = FakeClock([5, 10])
    >>> [clock.now_ns(), clock.now_ns(), clock.now_ns()]
    [5, 15, 25]
    """

    def __init__(self, steps_ns: Iterable[int]) -> None:
        self._steps: Iterator[int] = iter(steps_ns)
        self._step = 1
        self._now = 0

    def now_ns(self) -> int:
        """Tick and tell."""
        self._step = next(self._steps, self._step)
        self._now += self._step
        return self._now
