"""What a comparison judges: the merit of each answer, in 0 to 1, and the strata in which the answers were drawn.

Gate, certificate and the choice of weights know nothing else of what they compare. For classes the merit is whether
the answer is right, the strata are the classes; another kind of answer brings another merit.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm, permutation_test

from regraft.models.statistics.intervals import hold_together

FLIPS = 9_999
"""Sign flips that are drawn where merits are shares; of rights and wrongs the distribution is known exactly."""


def rate_hits(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return whether the highest of scores ``(N, K)`` is the true class, bool ``(N,)``: the merit of a class."""
    return scores.argmax(axis=1) == labels


def weigh_strata(strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's weight, by which every stratum that occurs weighs alike, and its stratum as 0 to K - 1.

    Args:
        strata: What each image was drawn from, ``(N,)``, integers or names.
    """
    codes = np.unique(strata, return_inverse=True)[1]
    sizes = np.bincount(codes)
    return 1 / (len(sizes) * sizes)[codes], codes


def weigh_total(merits: np.ndarray, strata: np.ndarray) -> float:
    """Return the mean merit in which every stratum weighs alike."""
    return float(np.mean([merits[strata == stratum].mean() for stratum in np.unique(strata)]))


@dataclass(frozen=True, slots=True)
class Lead:
    """How far the second of two ways is ahead on the same images.

    Attributes:
        value: Sum of the differences in merit.
        error: Standard error of that sum, if nothing but chance told the two apart.
        gained: Images on which the second is better.
        lost: Images on which the first is better.
        p_value: Two-sided, of sign flips; where images come in groups the normal one over groups.
    """

    value: float
    error: float
    gained: int
    lost: int
    p_value: float


def measure_lead(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> Lead:
    """Return the lead of merits ``second`` over ``first``, both ``(N,)``; ``groups`` ``(N,)`` hold images together.

    Source: the test of sign flips, Fisher 1935; of merits that are 0 or 1 it is McNemar's exact test.
    """
    d = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    value, held = float(np.sum(d)), hold_together(groups)
    parts = d if held is None else np.bincount(held, d)
    error = math.sqrt(float(np.sum(parts**2)))
    p_value = _flip_signs(d[d != 0]) if held is None else _test_normally(value, error)
    return Lead(value, error, int(np.sum(d > 0)), int(np.sum(d < 0)), p_value)


def _test_normally(value: float, error: float) -> float:
    return float(2 * norm.sf(abs(value) / error)) if error else 1.0


def _flip_signs(d: np.ndarray) -> float:
    """Return the two-sided p-value of the sum of differences, none of them 0, under random signs."""
    if not len(d):
        return 1.0
    if np.ptp(np.abs(d)) == 0:
        return float(binomtest(int(np.sum(d > 0)), len(d)).pvalue)
    flipped = permutation_test((d,), np.sum, permutation_type="samples", n_resamples=FLIPS, rng=0)
    return float(flipped.pvalue)
