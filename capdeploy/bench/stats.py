"""Statistics of latencies: percentiles, and the ratio of two interleaved series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capdeploy.values.report import SpeedUp

DRAWS = 2000


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile by linear interpolation, `share` in 0..100."""
    return float(np.percentile(np.asarray(values), share))


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
