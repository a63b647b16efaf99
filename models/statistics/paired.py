"""How much better one version answers the same test images than another: one test that gives interval and p-value.

Every stratum weighs alike, as in the certificate; of classifications the strata are the classes. Where groups are known
(a coil, a patient) they are what chance draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import t as student

from regraft.models.statistics.intervals import number_groups, spread_variance
from regraft.models.statistics.merits import weigh_strata

POWER = 0.8
"""Chance of settling a difference of the stated size with the stated number of images."""
PSEUDO_COUNT = 2.0
"""Images counted as answered otherwise, one in each direction, beside those that were seen."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Challenger minus champion in mean merit, -1 to 1, every stratum alike, over ``images`` of ``groups`` groups.

    ``low`` and ``high`` hold 0 exactly when ``p_value`` (two-sided, for no difference) is above 1 - ``confidence``:
    both are of one test. ``spread`` is the standard deviation that one image would bring, so that the standard error
    at N images is about ``spread`` / sqrt(N). ``wins`` and ``losses`` count images that one of them answered better.
    """

    value: float
    low: float
    high: float
    p_value: float
    spread: float
    champion: float
    challenger: float
    wins: int
    losses: int
    images: int
    groups: int
    confidence: float


def compare_paired(
    champion: np.ndarray,
    challenger: np.ndarray,
    strata: np.ndarray,
    groups: Sequence[str | None] | None = None,
    confidence: float = 0.95,
) -> PairedDifference:
    """Return the difference of two versions on the same images with its interval.

    With few differing answers their variance is that of a handful of accidents; one win and one loss more are counted
    as a pseudo-count, which makes the test about as strict as McNemar's exact one.

    Args:
        champion: Merit of the champion's answer to each image, ``(N,)``, 0-1; right or wrong is 1 or 0.
        challenger: The same of the challenger's.
        strata: What each image was drawn from, ``(N,)``, integers or names: its true class.
        groups: What each image shows a piece of, N of them; None where it is not known.
        confidence: Two-sided coverage, 0-1.

    Source: Student's interval of a paired mean over clusters (Cameron and Miller, J. Human Resources 50, 2015); the
    pseudo-count after Bonett and Price, Biometrical J. 54 (2012).
    """
    d = challenger.astype(np.float64) - champion.astype(np.float64)
    weights, codes = weigh_strata(strata)
    numbers = number_groups(groups if groups is not None else [None] * len(d))
    parts = np.bincount(numbers, weights)
    variance = spread_variance(weights * d, codes, numbers) + PSEUDO_COUNT / len(parts) * float(np.sum(parts**2))
    lost = codes.max() + 1 if len(parts) == len(d) else 1
    degrees = max(1, len(parts) - int(lost))
    value, error = float(weights @ d), math.sqrt(variance)
    half = float(student.ppf((1 + confidence) / 2, degrees)) * error
    return PairedDifference(
        value=value,
        low=max(-1.0, value - half),
        high=min(1.0, value + half),
        p_value=float(2 * student.sf(abs(value) / error, degrees)),
        spread=error * math.sqrt(len(d)),
        champion=float(weights @ champion),
        challenger=float(weights @ challenger),
        wins=int(np.sum(d > 0)),
        losses=int(np.sum(d < 0)),
        images=len(d),
        groups=len(parts),
        confidence=confidence,
    )


def estimate_needed(difference: PairedDifference, gap: float, confidence: float) -> int:
    """Return about how many more images of the same kind would show a distance of ``gap`` (0-1), at least 1.

    Args:
        difference: What was seen so far.
        gap: Distance of the difference from what it is held against.
        confidence: Two-sided coverage that the next interval will have.
    """
    total = ((float(ndtri((1 + confidence) / 2)) + float(ndtri(POWER))) * difference.spread / gap) ** 2
    return max(1, math.ceil(total) - difference.images)
