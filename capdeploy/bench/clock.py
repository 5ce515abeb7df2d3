"""Time, and a clock that ticks as told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
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


class CpuClock:
    """CPU time of this process, all threads."""

    def now_ns(self) -> int:
        """Return user and system time spent so far."""
        return time.process_time_ns()


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


class CpuMeter:
    """A clock that is read in pairs, and adds up the CPU time of each pair.

    The CPU time is read outside the pair, so that reading it is no part of what is timed.

    Parameters
    ----------
    clock : Clock
        What it tells.
    cpu_ns : Callable[[], int]
        CPU time of this process so far, all threads.

    Examples
    --------
    >>> meter = CpuMeter(FakeClock([10]), iter([100, 107]).__next__)
    >>> meter.now_ns(), meter.now_ns(), meter.spent_ns
    (10, 20, 7)
    """

    def __init__(self, clock: Clock, cpu_ns: Callable[[], int] = time.process_time_ns) -> None:
        self._clock = clock
        self._cpu_ns = cpu_ns
        self._began: int | None = None
        self.spent_ns = 0

    def now_ns(self) -> int:
        """Tell the clock; every second reading adds the CPU time since the first."""
        if self._began is None:
            self._began = self._cpu_ns()
            return self._clock.now_ns()
        now = self._clock.now_ns()
        self.spent_ns += self._cpu_ns() - self._began
        self._began = None
        return now
