"""Intervals of measured scores: Wilson for proportions and what resembles them, bootstrap percentiles for the rest.

Every draw comes from a seed, and a score is computed for thousands of resamples at once from a matrix of weights.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtri

CHUNK_CELLS = 200_000
"""Weights in one block of resamples: small enough to stay in the processor's cache, which is worth a factor of two."""

PSEUDO_COUNT = 0.5
"""Images that are counted as ranked worst beside those that were seen."""


def normal_quantile(confidence: float) -> float:
    """Return z such that a standard normal lies within +-z with probability ``confidence``."""
    return float(ndtri((1 + confidence) / 2))


def wilson_interval(
    successes: np.ndarray | float, n: np.ndarray | float, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the score interval of a proportion; never degenerate, also at 0 of n and n of n.

    Args:
        successes: Count or array of counts, 0 to ``n``.
        n: Trials, same shape, not always whole; where it is 0 the interval is (0, 1).
        confidence: Two-sided coverage, 0-1.

    Source: Wilson 1927; recommended by Brown, Cai and DasGupta, Statistical Science 16 (2001).
    """
    successes, n = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z2 = normal_quantile(confidence) ** 2
    trials = np.where(n > 0, n, 1)
    share = successes / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = np.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    # At the ends the formula gives exactly the share, but for rounding.
    low = np.where(n == 0, 0.0, np.where(successes == 0, 0.0, centre - half))
    high = np.where(n == 0, 1.0, np.where(successes == n, 1.0, centre + half))
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def effective_interval(
    estimate: float,
    samples: np.ndarray,
    n: float,
    confidence: float = 0.95,
    *,
    capped: bool = True,
    penalty: float = 1.0,
) -> tuple[float, float]:
    """Return the Wilson interval of a score in 0-1 at the sample size that its bootstrap variance amounts to.

    A percentile interval shrinks to a point as a score nears 1 (with 5 errors among 360 images it covers 0.88 instead
    of 0.95); this one does not, and covers at least as well elsewhere.

    Args:
        estimate: The score on the images themselves.
        samples: The score over the resamples, shape ``(R,)``.
        n: Images that the score rests on; used where the samples do not vary at all.
        confidence: Two-sided coverage, 0-1.
        capped: Never trust the score more than a proportion of ``n`` images.
        penalty: Factor on that size where the variance rests on few groups, as ``models.statistics.design`` gives it.

    Source: effective sample size after Korn and Graubard, Survey Methodology 24 (1998), with Wilson's interval.
    """
    variance = float(np.var(samples))
    size = estimate * (1 - estimate) / variance if variance > 0 else n
    size = (min(size, n) if capped else size) * penalty
    low, high = wilson_interval(estimate * size, size, confidence)
    return float(min(low, estimate)), float(max(high, estimate))


def number_groups(groups: Sequence[str | None]) -> np.ndarray:
    """Return the number of each image's group from 0, shape ``(N,)``; an image without a group is one by itself.

    Args:
        groups: Name of each image's group; None, NaN or an empty name where none is known.
    """
    numbers: dict[str, int] = {}
    found = np.empty(len(groups), dtype=np.int64)
    alone = 0
    for i, name in enumerate(groups):
        if isinstance(name, str) and name:
            found[i] = numbers.setdefault(name, len(numbers) + alone)
        else:
            found[i] = len(numbers) + alone
            alone += 1
    return found


def hold_together(groups: np.ndarray | None) -> np.ndarray | None:
    """Return ``groups`` numbered from 0, or None where no group has two images: then images are what is drawn."""
    if groups is None:
        return None
    numbers = np.unique(groups, return_inverse=True)[1]
    return numbers if len(numbers) and numbers.max() + 1 < len(numbers) else None


def join_strata(strata: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return strata, shape ``(N,)``, of which every group lies in one: those that share a group are joined.

    Groups of one class each leave the strata as they are; where a patient has images of several classes no class can
    be resampled apart from the other.
    """
    classes, places = np.unique(strata, return_inverse=True)
    of_group = np.empty(int(groups.max()) + 1, dtype=np.int64)
    of_group[groups] = places
    if np.array_equal(of_group[groups], places):  # the usual case, without a graph
        return places
    shape = (len(of_group), len(classes))
    table = csr_array((np.ones(len(places)), (groups, places)), shape=shape)
    return connected_components(table.T @ table, directed=False)[1][places].astype(np.int64)


def centre_strata(influence: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return each image's influence less the mean of its stratum, shape ``(N,)``."""
    sizes = np.bincount(strata)
    means = np.bincount(strata, influence) / np.maximum(sizes, 1)
    # The spread within a stratum of one image is not known; its distance from the others stands for it.
    return influence - np.where(sizes > 1, means, 0)[strata]


def spread_variance(influence: np.ndarray, strata: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return the variance of a score from each image's influence on it when every stratum keeps its size.

    With groups it is that of drawing groups: what their images have in common counts once for each group, not once
    for each image. Groups of one image each change nothing.

    Args:
        influence: Derivative of the score by the image's weight, shape ``(N,)``.
        strata: Stratum of each image, shape ``(N,)``, integers from 0 (the true label, say).
        groups: Group of each image, shape ``(N,)``, integers, equal for images that belong together.

    Source: with groups the sandwich of their totals with G / (G - 1), in the strata that ``join_strata`` leaves and
    after the classes' own sizes are kept: Cameron and Miller, Journal of Human Resources 50 (2015), section II; for
    strata Korn and Graubard, Analysis of Health Surveys (1999), section 2.2.
    """
    sizes, centred = np.bincount(strata), centre_strata(influence, strata)
    held = hold_together(groups)
    if held is None:
        return float(np.sum(centred**2 * (sizes / np.maximum(sizes - 1, 1))[strata]))
    totals, of_group = np.bincount(held, centred), _list_units(strata, held)
    count = np.bincount(of_group)
    variance = float(np.sum(totals**2 * (count / np.maximum(count - 1, 1))[of_group]))
    for stratum in np.flatnonzero(count == 1):
        # How one group differs from others is not known: it may be off as a whole, or as far as its images differ.
        inside = of_group[held] == stratum
        whole, alike = np.sum(influence[inside]) ** 2, np.sum(inside) * np.sum(centred[inside] ** 2)
        variance += float(max(whole, alike) - np.sum(centred[inside]) ** 2)
    return variance


def pseudo_count_interval(
    estimate: float, variance: float, n: float, confidence: float = 0.95, *, penalty: float = 1.0
) -> tuple[float, float]:
    """Return the Wilson interval of a ranking score in 0-1 as if ``PSEUDO_COUNT`` more images had been ranked worst.

    Where few images are ranked wrongly, the variance is that of a handful of accidents and mostly too small: without
    the pseudo-count intervals of areas near 1 were seen to cover 0.79. With it they cover too much where no accident is
    possible at all, which nobody can know from a test set.

    Args:
        estimate: The score.
        variance: Of the score, as ``spread_variance`` gives it.
        n: Images that the score rests on, if each ranked worst cost the score 1/n.
        confidence: Two-sided coverage, 0-1.
        penalty: As in ``effective_interval``.

    Source: as ``effective_interval``; the pseudo-count is the half success that Jeffreys' prior adds to a proportion.
    """
    size = (estimate * (1 - estimate) + PSEUDO_COUNT / n) / (variance + PSEUDO_COUNT / n**2) * penalty
    low, high = wilson_interval(estimate * size, size, confidence)
    return float(min(low, estimate)), float(max(high, estimate))


def draw_weights(
    strata: np.ndarray, resamples: int, seed: int, groups: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield blocks ``(r, N)`` of how often each of N images occurs in a resample that keeps each stratum's size.

    With groups, groups are drawn in place of images; how often then is no whole number, because a stratum is
    weighted back to its size. A stratum of which no group was drawn has no weight.

    Args:
        strata: Stratum of each image, shape ``(N,)``, integers (the true label, say).
        resamples: Total number of rows over all blocks.
        seed: Seed of the generator; equal arguments give equal weights.
        groups: Group of each image, shape ``(N,)``, integers; groups of one image each change nothing.

    Source: bootstrap of whole clusters, Davison and Hinkley, Bootstrap Methods (1997), section 3.8; weighting the
    replicates back to known totals, Rust and Rao, Statistical Methods in Medical Research 5 (1996).
    """
    generator = np.random.default_rng(seed)
    held = hold_together(groups)
    units = strata if held is None else _list_units(strata, held)
    members = [np.flatnonzero(units == stratum) for stratum in np.unique(units)]
    rows = max(1, CHUNK_CELLS // max(1, len(strata)))
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        weights = np.empty((r, len(units)))
        for indices in members:
            n = len(indices)
            picks = generator.integers(0, n, (r, n)) + n * np.arange(r)[:, None]
            weights[:, indices] = np.bincount(picks.ravel(), minlength=r * n).reshape(r, n)
        yield weights if held is None else _restore_sizes(weights[:, held], strata)


def _list_units(strata: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return the stratum of each group, shape ``(G,)``: groups are drawn within the strata that they do not join."""
    of_group = np.empty(held.max() + 1, dtype=np.int64)
    of_group[held] = join_strata(strata, held)
    return of_group


def _restore_sizes(weights: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return ``weights`` ``(r, N)`` scaled so that each stratum that was drawn has the sum of its size."""
    classes, places, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    sums = weights @ np.eye(len(classes))[places]
    return weights * np.divide(sizes, sums, out=np.zeros_like(sums), where=sums > 0)[:, places]


def bootstrap_scores(
    score: Callable[[np.ndarray], dict[str, np.ndarray]],
    strata: np.ndarray,
    *,
    resamples: int,
    seed: int,
    groups: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return each score's values over all resamples, shape ``(resamples,)``.

    Args:
        score: From weights ``(r, N)`` to arrays ``(r,)``.
        strata: Stratum of each image, shape ``(N,)``.
        resamples: Number of resamples.
        seed: Seed of the resampling.
        groups: Group of each image, shape ``(N,)``, integers: then groups are what is drawn.
        progress: Called with (resamples done, resamples in all).
    """
    blocks: list[dict[str, np.ndarray]] = []
    done = 0
    for weights in draw_weights(strata, resamples, seed, groups):
        blocks.append(score(weights))
        done += len(weights)
        if progress is not None:
            progress(done, resamples)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def percentile_interval(
    samples: np.ndarray, estimate: float, confidence: float = 0.95, *, centred: bool = False
) -> tuple[float, float]:
    """Return the percentile interval of bootstrap ``samples``, widened if need be to hold ``estimate``.

    Args:
        samples: Values over the resamples, shape ``(R,)``.
        estimate: The value on the images themselves.
        confidence: Two-sided coverage, 0-1.
        centred: Shift the samples so that their median is the estimate: for scores that resampling alone raises,
            such as the calibration error.
    """
    if centred:
        samples = samples - np.median(samples) + estimate
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(min(low, estimate)), float(max(high, estimate))
