"""How well a frozen backbone's features fit some labels: five scores without training, all from one decomposition.

Every score rises with the expected accuracy. Only scores of the same images may be compared. What the scores say of one
candidate is joined with those of the others in ``models/selection/ranking.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from regraft.models.features.directions import measure_spread
from regraft.models.statistics.intervals import hold_together
from regraft.models.statistics.merits import rate_hits

PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
"""Ridge penalties tried, as shares of the mean variance along a direction, strongest first."""

MIN_POWER_SHARE = 1e-9
"""Directions weaker than this share of the strongest are rounding."""

PAIR_IMAGES = 500
"""Images whose pairs are ranked, at most; the number of pairs grows with the square. Published: 500."""

NOISE_SHARES = np.logspace(-8, 8, 97)
"""Where the evidence is looked at first: variance of the noise as a share of the signal's mean along a direction."""


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Centred, scaled features of N images and their principal directions; k is the rank, below N and at most D.

    Attributes:
        gram: ``(N, N)`` float64, inner products of the images.
        row_means: ``(N,)``, each image's mean over the features.
        powers: ``(k,)``, sums of squares along the directions, descending.
        directions: ``(N, k)``, orthonormal columns; times the root of ``powers`` they are the rotated features.
        dimensions: D.
    """

    gram: np.ndarray
    row_means: np.ndarray
    powers: np.ndarray
    directions: np.ndarray
    dimensions: int


@dataclass(frozen=True, slots=True)
class RidgeHits:
    """Leave-one-out answers of a ridge regression on the labels.

    Attributes:
        hits: ``(N,)`` bool.
        scores: ``(N, C)`` float64, about 0 to 1, of each image under the fit that has not seen its label.
        penalty: The one chosen from ``PENALTIES``.
    """

    hits: np.ndarray
    scores: np.ndarray
    penalty: float


@dataclass(frozen=True, slots=True)
class Scores:
    """All scores of one backbone; ``knn_hits`` ``(N,)`` bool, the others as their functions return them."""

    knn_hits: np.ndarray
    ridge: RidgeHits
    log_evidence: float
    h_score: float
    parc: float

    def to_figures(self) -> dict[str, float]:
        """Return one figure of each score: columns of the ranking, and fields of ``Candidate``."""
        means = {"knn": float(self.knn_hits.mean()), "ridge": float(self.ridge.hits.mean())}
        return means | {"log_evidence": self.log_evidence, "h_score": self.h_score, "parc": self.parc}


def score_all(features: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> Scores:
    """Return every score of features ``(N, D)`` for labels ``(N,)`` in 0..C-1.

    With ``groups`` ``(N,)``, integers, an image's whole group is left out where otherwise the image is.

    Raises:
        ValueError: If the features are constant or not finite, or the labels do not fit them or hold one class only.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features {features.shape} and labels {labels.shape} must be (N, D) and (N,).")
    if len(np.unique(labels)) < 2:
        raise ValueError("features cannot be scored: all labels are equal; two classes are needed.")
    parts = decompose(features)
    # One thread: measured faster than two on matrices this small, and its sums do not depend on the machine.
    with threadpool_limits(1, user_api="blas"):
        return Scores(
            knn_hits=knn_hits(parts, labels, groups),
            ridge=ridge_hits(parts, labels, groups=groups),
            log_evidence=log_maximum_evidence(parts, labels),
            h_score=shrunk_h_score(parts, labels),
            parc=parc(parts, labels),
        )


def decompose(features: np.ndarray) -> Decomposition:
    """Centre and scale features ``(N, D)`` and find their directions from the smaller of Gram and covariance matrix.

    The scale is the probe's: a dead feature is not blown up. It is taken over all images and sees no label.

    Raises:
        ValueError: If the features are constant or not finite.
    """
    if not np.isfinite(features).all():
        raise ValueError("features cannot be scored: they hold NaN or infinite numbers; does the backbone overflow?")
    if len(features) < 2 or not np.ptp(features, axis=0).any():
        raise ValueError(f"features cannot be scored: all {len(features)} images have the same; is the backbone dead?")
    scaled = features.astype(np.float64) / measure_spread(features)[1].astype(np.float64)
    scaled -= scaled.mean(axis=0)
    with threadpool_limits(1, user_api="blas"):
        gram = scaled @ scaled.T
        wide = scaled.shape[0] <= scaled.shape[1]
        powers, vectors = np.linalg.eigh(gram if wide else scaled.T @ scaled)
        powers, vectors = powers[::-1], vectors[:, ::-1]
        # Centring takes one direction of the images away.
        rank = min(int(np.sum(powers > MIN_POWER_SHARE * powers[0])), len(scaled) - 1)
        powers, vectors = powers[:rank], vectors[:, :rank]
        directions = vectors if wide else scaled @ vectors / np.sqrt(powers)
    return Decomposition(gram, scaled.mean(axis=1), powers, directions, scaled.shape[1])


def knn_hits(parts: Decomposition, labels: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Return whether each image's nearest other image, by cosine, has its label; ``(N,)`` bool.

    The nearest is looked for in other ``groups`` ``(N,)`` where there are any.

    One neighbour, as in the study cited. A class with a single image is never hit: no other image bears its label. Of
    equally near neighbours the first counts; an image at the very centre is equally far from all.

    Source: the best of 23 scores on 16 data sets in arXiv 2503.18528 (TMLR 2025).
    """
    lengths = np.sqrt(np.maximum(np.diag(parts.gram), 0))
    lengths[lengths == 0] = np.inf
    cosines = parts.gram / lengths[:, None] / lengths
    np.fill_diagonal(cosines, -np.inf)
    if (held := _find_others(groups)) is not None:
        cosines[held[:, None] == held] = -np.inf
    return labels[cosines.argmax(axis=1)] == labels


def _find_others(groups: np.ndarray | None) -> np.ndarray | None:
    """Return the groups numbered, None where each image is one by itself or all are of one."""
    held = hold_together(groups)
    return held if held is not None and held.any() else None


def ridge_hits(
    parts: Decomposition,
    labels: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    groups: np.ndarray | None = None,
) -> RidgeHits:
    """Return leave-one-out answers of a ridge regression on one-hot labels with a free intercept.

    The penalty with the least squared error on the images left out is taken, of equals the first. A class with a single
    image is never hit: without that image nothing speaks for the class. Of ``groups`` ``(N,)`` each is left out whole.

    Source: Hastie, Tibshirani and Friedman 2009, "The Elements of Statistical Learning", section 7.10.
    """
    targets = one_hot(labels)
    means = targets.mean(axis=0)
    projected = parts.directions.T @ targets
    held = _find_others(groups)
    best: tuple[float, float, np.ndarray] | None = None
    for penalty in penalties:
        shrink = parts.powers / (parts.powers + penalty * parts.powers.mean())
        fitted = means + parts.directions @ (shrink[:, None] * projected)
        leverage = 1 / len(labels) + parts.directions**2 @ shrink
        scores = targets - (targets - fitted) / (1 - leverage)[:, None]
        for group in range(0 if held is None else held.max() + 1):
            inside = held == group
            rows = parts.directions[inside]
            hat = 1 / len(labels) + rows * shrink @ rows.T
            left = np.linalg.solve(np.eye(len(rows)) - hat, (targets - fitted)[inside])
            scores[inside] = targets[inside] - left
        error = float(np.sum((targets - scores) ** 2))
        if best is None or error < best[0]:
            best = error, float(penalty), scores
    _, penalty, scores = best
    return RidgeHits(rate_hits(scores, labels), scores, penalty)


def log_maximum_evidence(parts: Decomposition, labels: np.ndarray) -> float:
    """Return the greatest log evidence of Bayesian linear models, one class against the rest; mean nats per image.

    Weights have prior variance 1/alpha, noise has variance 1/beta. Three departures from the authors' code: a free
    intercept (raw features carry one, centred ones do not); the whole determinant, also with more features than images;
    and a search over alpha/beta instead of their fixed point, which creeps where a class cannot be told.

    Source: You, Liu, Wang and Long 2021, "LogME: Practical assessment of pre-trained models", arXiv 2102.11005.
    """
    targets = one_hot(labels)
    powers = parts.powers / parts.powers.mean()
    squares = (parts.directions.T @ targets) ** 2  # (k, C)
    outside = np.maximum(np.sum((targets - targets.mean(axis=0)) ** 2, axis=0) - squares.sum(axis=0), 0)
    best = [find_log_evidence(powers, *each, len(labels) - 1) for each in zip(squares.T, outside, strict=True)]
    return float(np.mean(best) / len(labels))


def find_log_evidence(powers: np.ndarray, squares: np.ndarray, outside: float, n: int) -> float:
    """Return the greatest ``log_evidence`` over the noise: the best of a grid, refined between its neighbours."""
    steps = np.log(NOISE_SHARES)
    start = int(np.argmax([log_evidence(step, powers, squares, outside, n) for step in steps]))
    found = minimize_scalar(
        lambda step: -log_evidence(step, powers, squares, outside, n),
        bounds=(steps[max(start - 1, 0)], steps[min(start + 1, len(steps) - 1)]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return -float(found.fun)


def log_evidence(log_noise: float, powers: np.ndarray, squares: np.ndarray, outside: float, n: int) -> float:
    """Return the log evidence of one class's targets, in nats, at the best scale of noise and signal together.

    Args:
        log_noise: Log of the noise's variance as a share of the signal's mean along a direction.
        powers: ``(k,)`` of the directions, with mean 1.
        squares: ``(k,)``, the targets' squared components along them.
        outside: Sum of squares of the targets outside of them.
        n: Free dimensions of the targets, k of them inside.
    """
    variances = 1 + powers / np.exp(log_noise)  # in units of the noise
    scale = (np.sum(squares / variances) + outside) / n
    return float(-n / 2 * (np.log(2 * np.pi * max(scale, np.finfo(float).tiny)) + 1) - np.log(variances).sum() / 2)


def shrunk_h_score(parts: Decomposition, labels: np.ndarray) -> float:
    """Return how much of the features' variance the classes explain, in units of the shrunk covariance; 0 up to C - 1.

    Source: Ibrahim, Ponomareva and Mazumder 2021, "Newer is not always better", openreview iz_Wwmfquno, of Bao et al.
    2019; the covariance after Ledoit and Wolf 2004, "A well-conditioned estimator".
    """
    n, dimensions = len(labels), parts.dimensions
    variances = parts.powers / n
    mean, power = variances.sum() / dimensions, np.sum(variances**2)
    spread = power - dimensions * mean**2
    noise = max(np.sum(np.diag(parts.gram) ** 2) / n - power, 0) / n
    shrinkage = min(noise / spread, 1.0) if dimensions > 1 and spread > 0 else 0.0
    targets = one_hot(labels)
    counts = np.maximum(targets.sum(axis=0), 1)
    centres = (parts.directions.T @ targets) * np.sqrt(parts.powers)[:, None] / counts  # (k, C)
    between = np.sum(counts / n * centres**2, axis=1)
    return float((1 - shrinkage) * np.sum(between / ((1 - shrinkage) * variances + shrinkage * mean)))


def parc(parts: Decomposition, labels: np.ndarray) -> float:
    """Return the rank correlation, -1 to 1, between unlikeness of features and of labels over all pairs of images.

    Unlikeness is 1 minus Pearson's correlation. Of more than ``PAIR_IMAGES`` images an even choice along the sorted
    labels is looked at, so that the classes keep their shares.

    Source: Bolya, Mittapalli and Hoffman 2021, "Scalable diverse model selection", arXiv 2111.06977.
    """
    chosen = np.argsort(labels, kind="stable")
    if len(chosen) > PAIR_IMAGES:
        chosen = chosen[np.arange(PAIR_IMAGES) * len(chosen) // PAIR_IMAGES]
    means = parts.row_means[chosen]
    covariances = parts.gram[np.ix_(chosen, chosen)] - parts.dimensions * np.outer(means, means)
    lengths = np.sqrt(np.maximum(np.diag(covariances), 0))
    lengths[lengths == 0] = np.inf  # an image without contrast is unlike all others alike
    above = np.triu_indices(len(chosen), 1)
    unlike = 1 - (covariances / lengths[:, None] / lengths)[above]
    # One-hot labels correlate in two ways only: equal or not.
    differ = (labels[chosen][:, None] != labels[chosen])[above]
    if differ.all() or not differ.any():
        return 0.0  # no pair to compare with: nothing is known
    return float(np.corrcoef(rankdata(unlike), rankdata(differ))[0, 1])


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Return ``(N, C)`` float64 with a one at each image's class of 0..C-1."""
    return np.eye(int(labels.max()) + 1)[labels]
