"""Bounds of a percentile, straight from the definition and in exact arithmetic."""

from fractions import Fraction
from math import comb


def bounds(values, share, confidence):
    """Try every pair of order statistics against the binomial distribution.

    Hahn and Meeker, Statistical Intervals, section 5.2: of n values, B lie below the percentile,
    and B is binomial with n trials of probability share/100. The l-th smallest value is a lower
    bound with risk P(B < l); the u-th is an upper bound with risk P(B >= u).
    """
    ordered = sorted(values)
    size, part = len(ordered), Fraction(share) / 100
    risk = (1 - Fraction(confidence)) / 2
    mass = [comb(size, k) * part**k * (1 - part) ** (size - k) for k in range(size + 1)]
    low, high = 1, size
    for place in range(1, size + 1):
        if sum(mass[:place]) <= risk:
            low = place
    for place in range(size, 0, -1):
        if sum(mass[place:]) <= risk:
            high = place
    return ordered[low - 1], ordered[high - 1]
