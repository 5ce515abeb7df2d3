"""Which channel multiple pays: from the times of layers of many widths, measured in turns.

A width half-way between two multiples of m is compared with the mean of the times of these two.
If kernels do not care about m, time grows smoothly with width and the two agree. If they pad to m,
or leave their fast path off it, the width between costs more than its share: m pays.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from capdeploy.bench import measure
from capdeploy.bench.clock import Clock
from capdeploy.progress import Say
from capdeploy.runtimes import Session
from capdeploy.values.tuning import Effect, ProbedBlock

Times = npt.NDArray[np.float64]
MULTIPLES = (2, 4, 8, 16)
# Every multiple up to 16 with both its neighbours, and no width that no comparison needs.
WIDTHS = (*range(32, 52, 4), *range(49, 65))
# Two sessions of one graph in one process can differ by 1.6 % for as long as they live (where
# their memory happens to lie); an effect has to stand clearly above that.
LEAST_EFFECT = 0.03
VISIT_MS = 3.0
LEAST_CALLS, LEAST_ROUNDS = 3, 8
DRAWS = 2000
GRAINS = (8, 16)
LEAST_WIDTH = 32
LEAST_STAIR = 0.06
"""How much slower than the line between its neighbours a width half-way has to be to show a stair;
where kernels pad to 8 it is 0.08 and more, to 16 twice that, and medians scatter by less."""


def excess(times: Times, widths: Sequence[int], multiple: int) -> Times:
    """Compare the widths between multiples with the multiples on either side.

    Parameters
    ----------
    times : Times
        Rounds x widths, ms, float64.
    widths : Sequence[int]
        Channels of each column.
    multiple : int
        An even number.

    Returns
    -------
    Times
        For each round, by which share the widths between are slower than the straight line
        between their neighbours (mean over widths); a round's drift cancels.

    Raises
    ------
    ValueError
        If no width lies half-way between two given multiples.
    """
    half = multiple // 2
    at = {width: column for column, width in enumerate(widths)}
    between = [
        width
        for width in widths
        if width % multiple == half and width - half in at and width + half in at
    ]
    if not between:
        raise ValueError(f"no width half-way between two multiples of {multiple}")
    shares = [
        2 * times[:, at[w]] / (times[:, at[w - half]] + times[:, at[w + half]]) - 1 for w in between
    ]
    result: Times = np.mean(shares, axis=0)
    return result


def finer(align: int) -> dict[int, tuple[int, ...]]:
    """List multiples that may be coarser than `align`, each with the widths that show it."""
    return {
        multiple: tuple(range(LEAST_WIDTH, 2 * LEAST_WIDTH + 1, multiple // 2))
        for multiple in GRAINS if multiple > align and multiple % align == 0
    }  # fmt: skip


def grain(ms: Mapping[int, float], align: int) -> int:
    """Find how many channels kernels compute at once, where that is more than `align`.

    Parameters
    ----------
    ms : Mapping[int, float]
        Times of networks by their width; all of those in `finer`.
    align : int
        Widths are multiples of it anyway.

    Returns
    -------
    int
        The largest multiple whose half costs as much; 1 if there is none.

    Examples
    --------
    >>> grain({32: 4.0, 40: 9.0, 48: 9.0, 56: 16.0, 64: 16.0}, 8)
    16
    """
    found = 1
    for multiple, widths in finer(align).items():
        times = np.array([[ms[width] for width in widths]])
        if excess(times, widths, multiple)[0] > LEAST_STAIR:
            found = multiple
    return found


def effect(shares: Times, multiple: int, *, least: float = LEAST_EFFECT, seed: int = 0) -> Effect:
    """Decide whether a multiple pays, by the spread of the rounds.

    Parameters
    ----------
    shares : Times
        Excess of each round, from `excess`.
    multiple : int
        The multiple in question.
    least : float
        Smallest excess that matters, a share.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Effect
        It pays if the whole 95 % interval of the median excess lies above `least`, it does not if
        the interval lies below, and else it is unclear.
    """
    draws = np.random.default_rng(seed).choice(shares, size=(DRAWS, len(shares)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return Effect(
        multiple=multiple,
        excess=float(np.median(shares)),
        low=float(low),
        high=float(high),
        verdict="pays" if low > least else "does not pay" if high <= least else "unclear",
    )


def decide(runtime: str, block: str, widths: Sequence[int], times: Times) -> ProbedBlock:
    """Judge all multiples for one kind of layer in one runtime.

    Parameters
    ----------
    runtime : str
        Where it ran.
    block : str
        What ran.
    widths : Sequence[int]
        Channels of each column.
    times : Times
        Rounds x widths, ms, float64.

    Returns
    -------
    ProbedBlock
        Median times, and the verdict on each multiple.
    """
    return ProbedBlock(
        runtime=runtime,
        block=block,
        widths=tuple(widths),
        latency_ms=tuple(map(float, np.median(times, axis=0))),
        rounds=len(times),
        effects=tuple(effect(excess(times, widths, m), m) for m in MULTIPLES),
    )


def in_turns(
    sessions: Sequence[Session], batch: measure.Batch, clock: Clock, *, seconds: float, say: Say
) -> Times:
    """Time many sessions in rounds that visit all of them, each round in another order.

    Parameters
    ----------
    sessions : Sequence[Session]
        What to time.
    batch : measure.Batch
        The input, (1, 3, H, W) float32.
    clock : Clock
        Tells the time.
    seconds : float
        How long to measure in all; at least 8 rounds.
    say : Say
        Hears of the rounds.

    Returns
    -------
    Times
        Rounds x sessions, ms, float64: the median of enough calls to last 3 ms.
    """
    start = clock.now_ns()
    calls = [_calls(session, batch, clock) for session in sessions]
    random = np.random.default_rng(0)
    rounds: list[Times] = []
    for done in itertools.count(1):
        times = np.empty(len(sessions))
        for place in random.permutation(len(sessions)):
            visit = [measure.one(sessions[place], batch, clock) for _ in range(calls[place])]
            times[place] = statistics.median(visit)
        rounds.append(times)
        spent = (clock.now_ns() - start) / 1e9
        total = max(done, round(done * seconds / spent)) if spent > 0 else done
        say.advance(done, max(total, LEAST_ROUNDS), "rounds")
        if spent >= seconds and done >= LEAST_ROUNDS:
            break
    return np.array(rounds)


def _calls(session: Session, batch: measure.Batch, clock: Clock) -> int:
    warm = [measure.one(session, batch, clock) for _ in range(2 * LEAST_CALLS)]
    return max(LEAST_CALLS, round(VISIT_MS / statistics.median(warm[LEAST_CALLS:])))
