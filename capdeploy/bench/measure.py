"""Measure one session, and two against each other. Raw values are kept, warm-ups apart."""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from capdeploy.bench.clock import Clock
from capdeploy.bench.stats import speed_up
from capdeploy.errors import StepFailedError
from capdeploy.runtimes import Session
from capdeploy.values.report import SpeedUp

Batch = npt.NDArray[np.float32]
MS = 1e6
WARMUP_RUNS, WARMUP_MOST = 10, 200
WARMUP_MS = 30_000.0
STEADY_WINDOW, STEADY_SPREAD = 5, 0.05
ROUND_MS = 20.0
LEAST_RUNS, LEAST_ROUNDS = 20, 6
OWN_CLOCK_MS = 200.0


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector away for the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def one(session: Session, batch: Batch, clock: Clock) -> float:
    """Time one inference, in ms."""
    start = clock.now_ns()
    session.run(batch)
    return (clock.now_ns() - start) / MS


def warm(session: Session, batches: Sequence[Batch], clock: Clock) -> tuple[float, ...]:
    """Run until the latency is steady: at least 10 runs, until the last 5 lie within 5 %.

    Parameters
    ----------
    session : Session
        What to run.
    batches : Sequence[Batch]
        Real inputs, cycled.
    clock : Clock
        Tells the time.

    Returns
    -------
    tuple[float, ...]
        The warm-up latencies in ms, at most 200, and no more after half a minute.
    """
    values: list[float] = []
    for batch in itertools.islice(itertools.cycle(batches), WARMUP_MOST):
        values.append(one(session, batch, clock))
        last = values[-STEADY_WINDOW:]
        if len(values) < WARMUP_RUNS:
            continue
        if max(last) <= min(last) * (1 + STEADY_SPREAD) or sum(values) >= WARMUP_MS:
            break
    return tuple(values)


def steady(
    session: Session, batches: Sequence[Batch], clock: Clock, *, seconds: float
) -> tuple[float, ...]:
    """Measure for a time, and at least 20 inferences.

    Parameters
    ----------
    session : Session
        What to run; warm.
    batches : Sequence[Batch]
        Real inputs, cycled.
    clock : Clock
        Tells the time.
    seconds : float
        How long to measure.

    Returns
    -------
    tuple[float, ...]
        Latency of every inference, in ms.
    """
    values: list[float] = []
    spent = 0.0
    with undisturbed():
        for batch in itertools.cycle(batches):
            values.append(one(session, batch, clock))
            spent += values[-1]
            if spent >= seconds * 1000 and len(values) >= LEAST_RUNS:
                return tuple(values)
    raise AssertionError("unreachable: the cycle does not end")


def by_own_clock(session: Session, batches: Sequence[Batch], clock: Clock) -> tuple[float, ...]:
    """Time inferences by the device's or the runtime's own clock, and check ours by it.

    Parameters
    ----------
    session : Session
        What to run; warm.
    batches : Sequence[Batch]
        Real inputs, cycled.
    clock : Clock
        Tells the time; read in turns with the other, copies back included.

    Returns
    -------
    tuple[float, ...]
        Milliseconds; empty for a session without a clock of its own.

    Raises
    ------
    StepFailedError
        If it says longer than our clock: then ours did not wait for the device.
    """
    timed = getattr(session, "device_ms", None)
    if timed is None or timed(batches[0]) is None:
        return ()
    ours: list[float] = []
    own: list[float] = []
    for batch in itertools.cycle(batches):
        ours.append(one(session, batch, clock))
        own.append(float(timed(batch)))
        if len(own) >= LEAST_RUNS and sum(ours) >= OWN_CLOCK_MS:
            break
    theirs, clocks = statistics.median(own), statistics.median(ours)
    if theirs > clocks * (1 + STEADY_SPREAD):
        raise StepFailedError(
            f"the device's own clock says {theirs:.3g} ms and ours {clocks:.3g} ms: ours did not "
            "wait for the device"
        )
    return tuple(own)


def paired(
    baseline: Session, bundle: Session, batches: Sequence[Batch], clock: Clock, *, seconds: float
) -> SpeedUp:
    """Measure two warm sessions in turns, so that drift and bursts hit both alike.

    Parameters
    ----------
    baseline : Session
        What to compare with.
    bundle : Session
        What is compared.
    batches : Sequence[Batch]
        Real inputs; each round of one side sees those that the other side's round saw.
    clock : Clock
        Tells the time.
    seconds : float
        How long to measure, in all; at least 6 rounds of each side.

    Returns
    -------
    SpeedUp
        From rounds in ABBA order, each the median of enough calls to last 20 ms.
    """
    sides = (baseline, bundle)
    calls = [_calls_per_round(side, batches, clock) for side in sides]
    rounds: tuple[list[float], list[float]] = ([], [])
    spent = 0.0
    with undisturbed():
        while spent < seconds * 1000 or len(rounds[0]) < LEAST_ROUNDS:
            order = (0, 1) if len(rounds[0]) % 2 == 0 else (1, 0)
            for side in order:
                values = [
                    one(sides[side], batch, clock)
                    for batch in itertools.islice(itertools.cycle(batches), calls[side])
                ]
                spent += sum(values)
                rounds[side].append(statistics.median(values))
    return speed_up(*rounds)


def _calls_per_round(session: Session, batches: Sequence[Batch], clock: Clock) -> int:
    typical = statistics.median(one(session, batch, clock) for batch in batches[:3])
    return max(3, round(ROUND_MS / typical))
