"""What images tell less because they come in groups: thirty pictures of one coil are not thirty coils.

The design effect of a score says how much; the intervals of ``models/statistics/intervals.py`` take it as a smaller
sample.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from regraft.models.statistics.intervals import (
    PSEUDO_COUNT,
    centre_strata,
    hold_together,
    join_strata,
    normal_quantile,
    spread_variance,
    wilson_interval,
)

NOTHING = 1e-30
"""Variance below which images are taken not to differ: what rounding leaves of 0."""


@dataclass(frozen=True, slots=True)
class Design:
    """How a sample of images was come by, as far as an interval must know; ``Design()`` is one by one.

    Attributes:
        effect: Variance of a score with groups over that without, at least 1.
        penalty: Factor on the sample size, above 0 to 1, because the variance itself rests on few groups.
        degrees: Of freedom of that variance, at least 1.
    """

    effect: float = 1.0
    penalty: float = 1.0
    degrees: float = math.inf

    def shrink(self, n: float) -> float:
        """Return to how many images, each from elsewhere, ``n`` of these amount."""
        return n / self.effect * self.penalty


def measure_design(
    influence: np.ndarray, strata: np.ndarray, groups: np.ndarray | None, confidence: float = 0.95
) -> Design:
    """Return the design of a score from each image's influence on it.

    A variance that a few groups decide is mostly too small. So half a group more is counted whose images all fare
    alike, beside those that decided: without it a handful of wrong answers, or none, would say that images of one
    group have nothing in common. The fewer the groups, the wider the normal quantile becomes Student's.

    Args:
        influence: Derivative of the score by the image's weight, shape ``(N,)``.
        strata: Stratum of each image, shape ``(N,)``, integers from 0.
        groups: Group of each image, shape ``(N,)``, integers; None, or groups of one image each, give ``Design()``.
        confidence: Two-sided coverage of the interval that the design is for, 0-1.

    Source: effective sample size with Student's quantile, Korn and Graubard, Survey Methodology 24 (1998); images of
    groups of unequal size after Kish, Survey Sampling (1965), section 8.2. The half group is ours, measured in
    docs/benchmarks/intervals.md.
    """
    held = hold_together(groups)
    if held is None:
        return Design()
    sizes = np.bincount(held).astype(np.float64)
    alike = float(np.sum(sizes**2) / np.sum(sizes))  # the effect if all images of a group fared alike
    plain, grouped = spread_variance(influence, strata), spread_variance(influence, strata, held)
    squares = np.bincount(held, centre_strata(influence, strata)) ** 2
    known = plain > NOTHING
    deciding = float(np.sum(squares) ** 2 / np.sum(squares**2)) if known and squares.any() else 0.0
    effect = max(1.0, grouped / plain) if known else alike
    effect = (deciding * effect + PSEUDO_COUNT * alike) / (deciding + PSEUDO_COUNT)
    parts = len(np.unique(join_strata(strata, held)))
    degrees = max(1.0, len(held) / alike - parts)
    penalty = (normal_quantile(confidence) / float(student.ppf((1 + confidence) / 2, degrees))) ** 2
    return Design(effect, min(1.0, penalty), degrees)


def bound_share(
    hits: np.ndarray, strata: np.ndarray, groups: np.ndarray | None, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the share of images that are ``hits``, bool ``(N,)``, and the Wilson interval around it.

    Args:
        hits: Which images count.
        strata: Stratum of each image, shape ``(N,)``, integers from 0 (the true label, say).
        groups: As in ``measure_design``.
        confidence: Two-sided coverage, 0-1.
    """
    count, n = int(np.sum(hits)), len(hits)
    design = measure_design((hits - count / n) / n, strata, groups, confidence)
    low, high = wilson_interval(design.shrink(count), design.shrink(n), confidence)
    return count / n, float(low), float(high)


def count_groups(groups: np.ndarray | None) -> int | None:
    """Return how many groups the images come in, None where each is one by itself."""
    held = hold_together(groups)
    return None if held is None else int(held.max()) + 1
