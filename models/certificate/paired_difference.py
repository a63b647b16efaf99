"""How much better one way of learning answers than another, with an interval over test images and over label draws.

Both ways are repeated on a few draws of labelled images and answer the same test images each time. Resampling three
draws cannot show how much a fourth would differ, so the interval is Student's, with the degrees of freedom that the
mixture of both sources of chance deserves.
"""

import math
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel
from scipy.special import ndtri
from scipy.stats import t as student

from regraft.models.statistics.design import count_groups, measure_design
from regraft.models.statistics.intervals import hold_together, normal_quantile, spread_variance
from regraft.models.statistics.merits import weigh_strata

POWER = 0.8
"""Chance of settling a difference with the stated number of images and draws."""


class Difference(BaseModel, frozen=True, extra="forbid"):
    """First minus second in mean merit, every stratum alike, -1 to 1.

    Attributes:
        value: Mean over the draws.
        low: Lower end of the interval.
        high: Upper end.
        image_variance: Share of the variance of ``value`` that other test images would bring.
        draw_variance: Share that other label draws, orders and initialisations would bring.
        degrees: Of freedom, after Satterthwaite.
        images: Test images, I.
        draws: Label draws, J.
        confidence: Two-sided coverage of the interval.
        groups: That the test images come in, None where each is one by itself.
    """

    value: float
    low: float
    high: float
    image_variance: float
    draw_variance: float
    degrees: float
    images: int
    draws: int
    confidence: float
    groups: int | None = None

    @property
    def asked(self) -> str:
        """What it was asked, for people: images, and groups where there are any."""
        return say_images(self.images, self.groups)


def say_images(images: int, groups: int | None) -> str:
    """Return the number of test images in words, with that of their groups where they come in groups."""
    return f"{images} test images" + ("" if groups is None else f" in {groups} groups")


def measure_difference(
    first: np.ndarray,
    second: np.ndarray,
    strata: np.ndarray,
    confidence: float = 0.95,
    *,
    groups: np.ndarray | None = None,
) -> Difference:
    """Return the mean difference in merit, every stratum alike, and its interval.

    With d the difference at image i and draw j, the variance of its mean is that over images (their means over the
    draws) plus that over draws (their means over the images) less that of single answers, which both contain. Strata
    keep their sizes. One image on which both differ is added as a pseudo-count: agreement on all of few images proves
    little.
    Where images come in groups, other test images are other groups, and the pseudo-count is of a part of a group.

    Args:
        first: Merit of each answer, 0-1, ``(J, I)``, J at least 2; right or wrong is 1 or 0.
        second: The same of the other way, or zeros: then the value is the first one's mean merit.
        strata: What each image was drawn from ``(I,)``: its true class.
        confidence: Two-sided coverage, 0-1.
        groups: Group of each image ``(I,)``, integers; None, or groups of one image each: images are drawn.

    Raises:
        ValueError: If there are fewer than two draws, no images, or the shapes disagree.

    Source: two-way clustering after Cameron, Gelbach and Miller 2011; degrees of freedom after Satterthwaite 1946,
    of groups one less than there are in each stratum (Korn and Graubard 1998).
    """
    d = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if d.ndim != 2 or len(d) < 2 or d.shape[1] == 0 or d.shape[1] != len(strata):
        raise ValueError(f"a difference needs two draws and their answers to {len(strata)} images; it got {d.shape}.")
    if groups is not None and np.shape(groups) != (len(strata),):
        raise ValueError(f"{len(strata)} test images need as many groups; it got {np.shape(groups)}.")
    held, (draws, images) = hold_together(groups), d.shape
    value, spread = _measure_spread(d, strata, held, confidence)
    half = float(student.ppf((1 + confidence) / 2, spread.degrees)) * math.sqrt(spread.variance)
    return Difference(
        value=value,
        low=max(-1.0, value - half),
        high=min(1.0, value + half),
        image_variance=spread.of_images,
        draw_variance=spread.of_draws,
        degrees=spread.degrees,
        images=images,
        draws=draws,
        confidence=confidence,
        groups=count_groups(held),
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """How much a mean difference would vary.

    Attributes:
        variance: In all, the pseudo-count included.
        of_images: Part of it that other test images would bring.
        of_draws: Part that other label draws would bring.
        degrees: Of freedom, after Satterthwaite.
    """

    variance: float
    of_images: float
    of_draws: float
    degrees: float


def _measure_spread(
    d: np.ndarray, strata: np.ndarray, held: np.ndarray | None, confidence: float
) -> tuple[float, Spread]:
    """Return the mean over the strata of differences ``(J, I)``, and its spread; ``held`` are groups of images."""
    draws, images = d.shape
    weights, codes = weigh_strata(strata)
    by_draw = d @ weights
    by_image = d.mean(axis=0)
    of_images = spread_variance(weights * by_image, codes, held)
    of_draws = float(np.var(by_draw, ddof=1)) / draws
    of_both = _measure_rest(d, codes, weights, held) / draws
    design = measure_design(weights * by_image, codes, held, confidence)
    pseudo_count = 1 / (images / design.effect) ** 2
    variance = max(of_images, of_draws, of_images + of_draws - of_both) + pseudo_count
    spreads = of_images**2 / max(1, min(images - int(codes.max() + 1), design.degrees)) + of_draws**2 / (draws - 1)
    degrees = max(draws - 1.0, min(1e6, variance**2 / max(spreads, 1e-30)))
    of_rest = max(0.0, variance - of_images - pseudo_count)
    return float(by_draw.mean()), Spread(variance, of_images + pseudo_count, of_rest, degrees)


def _measure_rest(d: np.ndarray, strata: np.ndarray, weights: np.ndarray, groups: np.ndarray | None) -> float:
    """Return the variance, at one draw, of what neither the image, or its group, nor the draw explains."""
    draws, total = len(d), 0.0
    if groups is not None:
        rest = weights * (d - d.mean(axis=0))
        return sum(spread_variance(row, strata, groups) for row in rest) / (draws - 1)
    for stratum in range(strata.max() + 1):
        part = d[:, strata == stratum]
        if part.shape[1] > 1:
            rest = part - part.mean(axis=0) - part.mean(axis=1, keepdims=True) + part.mean()
            spread = float(np.sum(rest**2)) / ((part.shape[1] - 1) * (draws - 1))
            total += spread * float(np.sum(weights[strata == stratum] ** 2))
    return total


def estimate_more_data(difference: Difference, smallest_gain: float) -> tuple[int, int, float]:
    """Return about how many more test images and label draws would settle the comparison, and at which difference.

    Where images come in groups, the images are in further groups of the same sizes.
    Both sources of chance are given half of the variance that may remain; one that is small already needs no more.
    """
    effect = max(abs(difference.value) - smallest_gain, smallest_gain, 1 / difference.images)
    allowed = (effect / (normal_quantile(difference.confidence) + float(ndtri(POWER)))) ** 2
    images = math.ceil(difference.images * difference.image_variance / (allowed / 2))
    draws = math.ceil(difference.draws * difference.draw_variance / (allowed / 2))
    return max(0, images - difference.images), max(0, draws - difference.draws), effect
