"""How much neighbouring images resemble each other, and so how many of them say as much as one that stands alone."""

import numpy as np
from scipy.stats import rankdata

LARGEST = 0.98
"""Correlation of neighbours above which nothing can be told from a window: a hundred images then say as much as one."""


def measure_dependence(values: np.ndarray) -> np.ndarray:
    """Return for each column how many rows in a row say as much as one independent one, ``(C,)``, 1 or more.

    The variance of a mean over dependent rows is so many times that over independent ones; of ranks, because the tests
    are about distributions. Neighbours give the figure of each column by itself, as if memory faded evenly; what lasts
    longer, in many columns at once, shows in their mean correlation at all lags. The larger of both counts.

    Args:
        values: ``(M, C)`` in the order in which the images came.

    Source: an autoregression of order one with its correlation corrected for the bias of short series (Kendall 1954);
    the initial positive sequence of Geyer 1992.
    """
    rows, columns = values.shape
    if rows < 4 or columns == 0:
        return np.ones(columns)
    # A figure that is missing is no neighbour of anything: a camera that breaks must not look like one that stands.
    there = np.isfinite(values)
    middle = [np.median(column[kept]) if kept.any() else 0.0 for column, kept in zip(values.T, there.T, strict=True)]
    ranks = rankdata(np.where(there, values, middle), axis=0)
    ranks = ranks - ranks.mean(axis=0)
    power = np.sum(ranks**2, axis=0)
    varying = power > 0
    if not varying.any():
        return np.ones(columns)
    ranks, power = ranks[:, varying], power[varying]
    first = _correlate(ranks, power, 1)
    first = np.clip(first + (1 + 3 * first) / rows, 0, LARGEST)
    found = np.ones(columns)
    found[varying] = np.maximum((1 + first) / (1 - first), _sum_lags(ranks, power))
    return found


def _correlate(ranks: np.ndarray, power: np.ndarray, lag: int) -> np.ndarray:
    return np.sum(ranks[lag:] * ranks[:-lag], axis=0) / power


def _sum_lags(ranks: np.ndarray, power: np.ndarray) -> float:
    """Return ``1 + 2 * sum of correlations``, in the mean of the columns, until two lags in a row add up to nothing."""
    rows, total = len(ranks), 1.0
    for lag in range(1, rows // 4, 2):
        # A short series is centred on its own mean, which takes 1 / rows from each correlation.
        pair = sum(float(_correlate(ranks, power, each).mean()) + 1 / rows for each in (lag, lag + 1))
        if pair <= 0:
            break
        total += 2 * pair
    return max(1.0, total)
