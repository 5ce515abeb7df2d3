"""Statistics of latencies: percentiles, and the ratio of two interleaved series."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from capdeploy.values.report import SpeedUp

DRAWS = 2000


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile by linear interpolation, `share` in 0..100."""
    return float(np.percentile(np.asarray(values), share))


def percentile_bounds(
    values: Sequence[float], share: float, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Estimate a percentile with bounds that assume no distribution.

    Parameters
    ----------
    values : Sequence[float]
        At least one; independent. Latencies that follow each other are a little alike, so that
        true bounds are somewhat wider.
    share : float
        Above 0, below 100.
    confidence : float
        That the true percentile lies within the bounds, split evenly between the two sides.

    Returns
    -------
    tuple[float, float, float]
        The estimate of `percentile`, and two of the values as its bounds. A bound that the sample
        is too small for is the least or largest value; `least_samples` tells.

    References
    ----------
    Hahn and Meeker, Statistical Intervals, 1991, section 5.2: the number of values below the
    percentile is binomial.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    size = len(ordered)
    below = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])
    counts = np.arange(size + 1)
    log_ways = below[-1] - below - below[::-1]
    part = share / 100
    mass = np.exp(log_ways + counts * np.log(part) + (size - counts) * np.log1p(-part))
    tail = (1 - confidence) / 2
    low = int(np.searchsorted(np.cumsum(mass), tail, side="right"))
    # Summed from its own end, as what is left of 1 is too coarse for a thin tail.
    high = size - int(np.searchsorted(np.cumsum(mass[::-1]), tail, side="right"))
    return (
        percentile(values, share),
        float(ordered[max(0, low - 1)]),
        float(ordered[min(size - 1, high)]),
    )


def least_samples(share: float, confidence: float = 0.95) -> int:
    """Count the values that a percentile's bounds need on both sides.

    Parameters
    ----------
    share : float
        Above 0, below 100.
    confidence : float
        Of the bounds, as for `percentile_bounds`.

    Returns
    -------
    int
        With fewer, even the least or the largest value may lie on the wrong side of the percentile.

    Examples
    --------
    >>> least_samples(50), least_samples(90), least_samples(99), least_samples(99, 0.98)
    (6, 36, 368, 459)
    """
    thinner = max(share, 100 - share) / 100
    return math.ceil(math.log((1 - confidence) / 2) / math.log(thinner))


def speed_up(baseline_ms: Sequence[float], bundle_ms: Sequence[float], *, seed: int = 0) -> SpeedUp:
    """Estimate how many times faster a bundle is than its baseline.

    Parameters
    ----------
    baseline_ms : Sequence[float]
        Median latency of each round of the baseline, in ms.
    bundle_ms : Sequence[float]
        Median latency of the bundle's round next to it, in ms.
    seed : int
        Of the bootstrap.

    Returns
    -------
    SpeedUp
        The median of the rounds' ratios and its 95 % percentile-bootstrap interval over rounds.

    References
    ----------
    Kalibera and Jones, Rigorous benchmarking in reasonable time, ISMM 2013.
    """
    ratios = np.log(np.asarray(baseline_ms) / np.asarray(bundle_ms))
    draws = np.random.default_rng(seed).choice(ratios, size=(DRAWS, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return SpeedUp(
        ratio=float(np.exp(np.median(ratios))),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        rounds=len(ratios),
        baseline_ms=tuple(map(float, baseline_ms)),
        bundle_ms=tuple(map(float, bundle_ms)),
    )
