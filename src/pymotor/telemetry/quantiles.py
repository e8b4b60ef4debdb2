"""Quantiles out of histograms."""

from __future__ import annotations


def quantile(part: float, counts: dict[float, float]) -> float | None:
    """The value that this part of all stays below, from counts by upper bound, those below included; between two
    bounds a line is taken, as PromQL's `histogram_quantile` does. None without any."""
    bounds = sorted(counts)
    total = counts[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    lower, below = 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= part * total:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (part * total - below) / (counts[bound] - below)
        lower, below = bound, counts[bound]
    return lower
