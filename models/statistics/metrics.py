"""Classification scores under weights: one call computes a score for every row of a matrix of image weights.

With a single row of ones a function gives the plain score (scikit-learn's to the last digits, which the tests hold).
Shapes: N images, K classes, R rows of weights. Intervals are in ``models/statistics/intervals.py``, the whole picture
in ``models/evaluation/evaluate.py``.
"""

from dataclasses import dataclass

import numpy as np

from regraft.models.statistics.merits import rate_hits


@dataclass(frozen=True, slots=True)
class Counts:
    """Weighted counts per class, each of shape ``(R, K)``."""

    hits: np.ndarray
    actual: np.ndarray
    predicted: np.ndarray


def divide_counts(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def score_balanced_accuracy(counts: Counts) -> np.ndarray:
    """Return the mean recall over the classes that occur, shape ``(R,)``."""
    return np.nanmean(divide_counts(counts.hits, counts.actual), axis=1)


def score_macro_f1(counts: Counts) -> np.ndarray:
    """Return the mean F1 over the classes that occur or are predicted, shape ``(R,)``."""
    return np.nanmean(divide_counts(2 * counts.hits, counts.actual + counts.predicted), axis=1)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Images by falling score of one class: ``order`` and ``positive`` ``(N,)``, ``ends`` the last of each tie."""

    order: np.ndarray
    positive: np.ndarray
    ends: np.ndarray


def rank_images(scores: np.ndarray, positive: np.ndarray) -> Ranking:
    """Return the ranking by one class's scores.

    Args:
        scores: Score of the class, shape ``(N,)``; equal scores share one threshold.
        positive: Which images belong to the class, shape ``(N,)`` bool; both kinds must occur.
    """
    order = np.argsort(-scores, kind="stable")
    return Ranking(order, positive[order], np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)))


def score_ranking(ranking: Ranking, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return area under the ROC curve and average precision, each ``(R,)``, for weights ``(R, N)``."""
    weights = weights[:, ranking.order]
    everything = np.cumsum(weights, axis=1)[:, ranking.ends]
    true = np.cumsum(weights * ranking.positive, axis=1)[:, ranking.ends]
    false = everything - true
    gained = np.diff(true, axis=1, prepend=0)
    precision = np.divide(true, everything, out=np.zeros_like(true), where=everything > 0)
    heights = true - gained / 2
    area = np.sum(np.diff(false, axis=1, prepend=0) * heights, axis=1) / (true[:, -1] * false[:, -1])
    return area, np.sum(gained * precision, axis=1) / true[:, -1]


@dataclass(frozen=True, slots=True)
class Curve:
    """A score and what each image adds to it: its influence, ``(N,)``, which sums to 0."""

    score: float
    influence: np.ndarray


def trace_ranking(ranking: Ranking) -> tuple[Curve, Curve]:
    """Return area under the ROC curve and average precision, each with the influence of every image.

    The influence is the derivative by the image's weight, so that the sum of its squares is the score's variance.

    Source: for the area DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); Efron 1982, the infinitesimal
    jackknife.
    """
    positive, counts = ranking.positive, np.diff(ranking.ends, prepend=-1)
    true = np.cumsum(positive)[ranking.ends]
    false = ranking.ends + 1 - true
    gained, missed = np.diff(true, prepend=0), np.diff(false, prepend=0)
    below, above = 1 - (false - missed / 2) / false[-1], (true - gained / 2) / true[-1]
    area = float(np.sum(missed * above) / false[-1])
    precision = true / (true + false)
    average = float(np.sum(gained * precision) / true[-1])
    # An image also moves the precision of every threshold at or below its own.
    tails = np.cumsum((gained / (true + false) ** 2 * np.stack([false, -true]))[:, ::-1], axis=1)[:, ::-1] / true[-1]
    hit, miss = (precision - average) / true[-1] + tails[0], tails[1]
    area_influence, precision_influence = np.empty(len(positive)), np.empty(len(positive))
    spread = [
        np.repeat(values, counts) for values in ((below - area) / true[-1], (above - area) / false[-1], hit, miss)
    ]
    area_influence[ranking.order] = np.where(positive, spread[0], spread[1])
    precision_influence[ranking.order] = np.where(positive, spread[2], spread[3])
    return Curve(area, area_influence), Curve(average, precision_influence)


def trace_shares(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, Curve]:
    """Return accuracy, balanced accuracy and macro F1, each with the influence of every image."""
    right = (labels == predicted).astype(np.float64)
    hits = np.bincount(labels, right, classes)
    actual, named = np.bincount(labels, minlength=classes), np.bincount(predicted, minlength=classes)
    recall, f1 = divide_counts(hits, actual), divide_counts(2 * hits, actual + named)
    accuracy, balanced, macro = hits.sum() / len(labels), np.nanmean(recall), np.nanmean(f1)
    # Adding an image moves the F1 of its own class and of the one that was answered.
    pull = np.nan_to_num(f1 / (actual + named))
    gain = 2 * right * divide_counts(np.ones(classes), actual + named)[labels]
    return {
        "accuracy": Curve(float(accuracy), (right - accuracy) / len(labels)),
        "balanced_accuracy": Curve(
            float(balanced), (right - recall[labels]) / (actual[labels] * np.count_nonzero(actual))
        ),
        "macro_f1": Curve(float(macro), (gain - pull[labels] - pull[predicted]) / np.count_nonzero(actual + named)),
    }


def measure_log_loss(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each image's negative log probability of its true class in nats, shape ``(N,)``."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.clip(chosen, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps))


def measure_brier(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each image's squared error, shape ``(N,)``: 0-1 for two classes, else 0-2 (as scikit-learn's)."""
    classes = probabilities.shape[1]
    squared = np.sum((probabilities - np.eye(classes)[labels]) ** 2, axis=1)
    return squared / 2 if classes == 2 else squared


@dataclass(frozen=True, slots=True)
class Bins:
    """Confidence bins of equal width; ``member`` is each image's bin, shape ``(N,)``."""

    member: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    count: int


def bin_confidence(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> Bins:
    """Sort images into ``bins`` by the probability of their predicted class; bin i is (i/bins, (i+1)/bins]."""
    confidence = probabilities.max(axis=1)
    member = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return Bins(member, confidence, rate_hits(probabilities, labels).astype(np.float64), bins)


def spread_gaps(binned: Bins) -> np.ndarray:
    """Return each image's accuracy minus confidence in the column of its bin, shape ``(N, bins)``."""
    return (binned.correct - binned.confidence)[:, None] * np.eye(binned.count)[binned.member]


def measure_noise(binned: Bins, groups: np.ndarray | None = None) -> float:
    """Return the calibration error that chance alone would show in a classifier without any: its bias at the most.

    Every bin's gap is then normal around 0, and its mean distance from 0 is sqrt(2 / pi) standard deviations.
    ``groups`` are those of the images, ``(N,)`` integers from 0, where they come in groups.
    """
    gaps = spread_gaps(binned)
    if groups is not None:  # what a group has in common is one chance, not one for each of its images
        totals = np.zeros((int(groups.max()) + 1, binned.count))
        np.add.at(totals, groups, gaps)
        gaps = totals
    spread = np.sqrt(np.sum(gaps**2, axis=0)) / len(binned.member)
    return float(np.sqrt(2 / np.pi) * spread.sum())


def trace_calibration_error(binned: Bins) -> Curve:
    """Return the expected calibration error with the influence of every image, for bins that are not near 0."""
    gaps = spread_gaps(binned)
    sums = gaps.sum(axis=0)
    error = float(np.abs(sums).sum() / len(binned.member))
    return Curve(error, (gaps @ np.sign(sums) - error) / len(binned.member))


def score_calibration_error(gaps: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the expected calibration error, 0-1, shape ``(R,)``: mean gap of confidence and accuracy over the bins.

    Args:
        gaps: Weights times ``spread_gaps``, shape ``(R, bins)``.
        total: Sum of the weights, shape ``(R,)``.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    return np.abs(gaps).sum(axis=1) / total


def tabulate_reliability(binned: Bins) -> list[dict[str, float | int]]:
    """Return one row per bin that holds images: its bounds, count, mean confidence and accuracy."""
    rows: list[dict[str, float | int]] = []
    for i in range(binned.count):
        inside = binned.member == i
        if inside.any():
            rows.append(
                {
                    "bin_low": i / binned.count,
                    "bin_high": (i + 1) / binned.count,
                    "n": int(inside.sum()),
                    "confidence": float(binned.confidence[inside].mean()),
                    "accuracy": float(binned.correct[inside].mean()),
                }
            )
    return rows


def soften_logits(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return softmax(logits / temperature) in float64, shape ``(N, K)``."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
