"""Predictions on held-out images and every score of them with its interval.

The scores under weights are in ``models/metrics.py``; ``models/evaluation.py`` adds tables and files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.intervals import bootstrap_scores, effective_interval, percentile_interval, wilson_interval
from models.metrics import (
    Bins,
    Counts,
    bin_confidence,
    measure_brier,
    measure_log_loss,
    rank_images,
    score_balanced_accuracy,
    score_calibration_error,
    score_macro_f1,
    score_ranking,
    soften_logits,
    spread_gaps,
)

Score = Callable[[np.ndarray], dict[str, np.ndarray]]
"""From weights ``(R, N)`` to each score's values ``(R,)``."""

SHARES = ("balanced_accuracy", "macro_f1", "roc_auc", "pr_auc")
CURVE_CELLS = 40_000_000
"""Resamples x images x classes spent on the ranking scores, about two seconds; beyond it they get fewer resamples."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Predictions on N held-out images of K classes; ``raw`` are the probabilities before temperature scaling."""

    probabilities: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    names: tuple[str, ...]
    binned: Bins
    raw: np.ndarray | None
    raw_binned: Bins | None

    @property
    def ranked(self) -> list[int]:
        """Classes that a ranking score exists for; of two classes only the second, the positive one."""
        n = len(self.labels)
        if len(self.names) == 2:
            return [1] if 0 < np.count_nonzero(self.labels == 1) < n else []
        return [k for k in range(len(self.names)) if 0 < np.count_nonzero(self.labels == k) < n]


def check_predictions(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], shape: Any) -> None:
    """Raise one ValueError that lists everything wrong with the arrays to be scored."""
    problems = []
    if probabilities.ndim != 2 or probabilities.shape != (len(labels), len(names)):
        problems.append(f"probabilities have shape {probabilities.shape}, not {(len(labels), len(names))}")
    elif not np.isfinite(probabilities).all():
        problems.append("probabilities hold NaN or infinity")
    elif len(labels) and np.abs(probabilities.sum(1) - 1).max() > 1e-3:
        problems.append("rows of probabilities do not sum to 1")
    if len(names) < 2:
        problems.append(f"{len(names)} label name(s); a classifier needs at least 2")
    if len(labels) == 0:
        problems.append("there are no held-out images: give the test part a share above 0")
    elif labels.min() < 0 or labels.max() >= len(names):
        problems.append(f"labels run from {labels.min()} to {labels.max()}, names from 0 to {len(names) - 1}")
    if shape is not None and shape != probabilities.shape:
        problems.append(f"logits have shape {shape}, probabilities {probabilities.shape}")
    if problems:
        raise ValueError("cannot evaluate: " + "; ".join(problems) + ".")


def gather_predictions(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], bins: int, logits: np.ndarray | None
) -> HeldOut:
    """Return the checked predictions in float64 with everything that several scores share."""
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    check_predictions(probabilities, labels, names, None if logits is None else np.shape(logits))
    raw = None if logits is None else soften_logits(np.asarray(logits))
    return HeldOut(
        probabilities,
        labels,
        probabilities.argmax(axis=1),
        tuple(names),
        bin_confidence(probabilities, labels, bins),
        raw,
        None if raw is None else bin_confidence(raw, labels, bins),
    )


def prepare_curves(held: HeldOut) -> Score:
    """Return the scorer of ROC-AUC and average precision: macro one-vs-rest, or the positive class's if binary."""
    rankings = [rank_images(held.probabilities[:, k], held.labels == k) for k in held.ranked]

    def score(weights: np.ndarray) -> dict[str, np.ndarray]:
        areas, precisions = zip(*(score_ranking(ranking, weights) for ranking in rankings), strict=True)
        return {"roc_auc": np.mean(areas, axis=0), "pr_auc": np.mean(precisions, axis=0)}

    return score


def prepare_answers(held: HeldOut) -> Score:
    """Return the scorer of everything but accuracy and the curves; each call is one matrix product."""
    eye = np.eye(len(held.names))
    actual, guessed = eye[held.labels], eye[held.predicted]
    losses = {
        "log_loss": measure_log_loss(held.probabilities, held.labels),
        "brier": measure_brier(held.probabilities, held.labels),
    }
    gaps = {"ece": spread_gaps(held.binned)}
    if held.raw is not None and held.raw_binned is not None:
        losses["log_loss_uncalibrated"] = measure_log_loss(held.raw, held.labels)
        gaps["ece_uncalibrated"] = spread_gaps(held.raw_binned)
    blocks = [actual * guessed, actual, guessed, np.column_stack(list(losses.values())), *gaps.values()]
    table = np.hstack(blocks)
    cuts = np.cumsum([block.shape[1] for block in blocks])[:-1]

    def score(weights: np.ndarray) -> dict[str, np.ndarray]:
        hits, true, named, sums, *parts = np.split(weights @ table, cuts, axis=1)
        counts, total = Counts(hits, true, named), weights.sum(axis=1)
        scores = {"balanced_accuracy": score_balanced_accuracy(counts), "macro_f1": score_macro_f1(counts)}
        scores |= {name: sums[:, i] / total for i, name in enumerate(losses)}
        return scores | {name: score_calibration_error(part, total) for name, part in zip(gaps, parts, strict=True)}

    return score


def enclose_scores(
    held: HeldOut,
    *,
    resamples: int,
    seed: int,
    confidence: float,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Return every score with its ``_low`` and ``_high``, and the accuracy of the whole.

    Args:
        held: The predictions.
        resamples: Bootstrap resamples; the ranking scores get fewer where images x classes are many.
        seed: Seed of the resampling.
        confidence: Two-sided coverage of each interval.
        progress: Called with (resamples done, resamples in all).
    """
    n = len(held.labels)
    hits = int(np.sum(held.predicted == held.labels))
    low, high = wilson_interval(hits, n, confidence)
    scores = {"accuracy": hits / n, "accuracy_low": float(low), "accuracy_high": float(high)}
    samples, points = {}, {}
    jobs = [(prepare_answers(held), resamples)]
    if held.ranked:
        jobs.append((prepare_curves(held), min(resamples, max(200, CURVE_CELLS // (n * len(held.ranked))))))
    for score, count in jobs:
        samples |= bootstrap_scores(score, held.labels, resamples=count, seed=seed, progress=progress)
        points |= score(np.ones((1, n)))
    for name, point in points.items():
        bounds = bound_score(name, samples[name], float(point[0]), held, confidence)
        scores |= {name: float(point[0]), f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
    return scores


def bound_score(
    name: str, samples: np.ndarray, estimate: float, held: HeldOut, confidence: float
) -> tuple[float, float]:
    """Return the interval of one score in the way that fits its kind."""
    if name not in SHARES:
        low, high = percentile_interval(samples, estimate, confidence, centred=name.startswith("ece"))
        return max(0.0, low), high
    sizes = np.bincount(held.labels, minlength=len(held.names))
    ranks = name in ("roc_auc", "pr_auc")
    groups = np.minimum(sizes, len(held.labels) - sizes)[held.ranked] if ranks else sizes[sizes > 0]
    # A mean over classes rests on as many images as a proportion with the same variance would.
    n = len(groups) ** 2 / float(np.sum(1 / groups))
    return effective_interval(estimate, samples, n, confidence, capped=not ranks)
