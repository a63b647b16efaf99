"""Predictions on held-out images and every score of them with its interval.

The scores under weights are in ``models/statistics/metrics.py``; ``models/evaluation/evaluate.py`` adds tables and
files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.models.statistics.design import measure_design
from regraft.models.statistics.intervals import (
    bootstrap_scores,
    effective_interval,
    hold_together,
    percentile_interval,
    pseudo_count_interval,
    spread_variance,
    wilson_interval,
)
from regraft.models.statistics.metrics import (
    Bins,
    Counts,
    Curve,
    bin_confidence,
    measure_brier,
    measure_log_loss,
    measure_noise,
    rank_images,
    score_balanced_accuracy,
    score_calibration_error,
    score_macro_f1,
    soften_logits,
    spread_gaps,
    trace_calibration_error,
    trace_ranking,
    trace_shares,
)

Score = Callable[[np.ndarray], dict[str, np.ndarray]]
"""From weights ``(R, N)`` to each score's values ``(R,)``."""

SHARES = ("balanced_accuracy", "macro_f1")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Predictions on N held-out images of K classes; ``raw`` are the probabilities before temperature scaling.

    ``groups`` are numbered from 0, None where every image is one by itself.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    names: tuple[str, ...]
    binned: Bins
    raw: np.ndarray | None
    raw_binned: Bins | None
    groups: np.ndarray | None = None

    @property
    def ranked(self) -> list[int]:
        """Classes that a ranking score exists for; of two classes only the second, the positive one."""
        n = len(self.labels)
        if len(self.names) == 2:
            return [1] if 0 < np.count_nonzero(self.labels == 1) < n else []
        return [k for k in range(len(self.names)) if 0 < np.count_nonzero(self.labels == k) < n]


def check_predictions(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], shape: Any, groups: np.ndarray | None = None
) -> None:
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
    if groups is not None and np.shape(groups) != labels.shape:
        problems.append(f"groups have shape {np.shape(groups)}, labels {labels.shape}")
    if problems:
        raise ValueError("cannot evaluate: " + "; ".join(problems) + ".")


def gather_predictions(
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    bins: int,
    logits: np.ndarray | None,
    groups: np.ndarray | None = None,
) -> HeldOut:
    """Return the checked predictions in float64 with everything that several scores share."""
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    check_predictions(probabilities, labels, names, None if logits is None else np.shape(logits), groups)
    raw = None if logits is None else soften_logits(np.asarray(logits))
    return HeldOut(
        probabilities,
        labels,
        probabilities.argmax(axis=1),
        tuple(names),
        bin_confidence(probabilities, labels, bins),
        raw,
        None if raw is None else bin_confidence(raw, labels, bins),
        hold_together(groups),
    )


def trace_curves(held: HeldOut) -> dict[str, Curve]:
    """Return ROC-AUC and average precision: macro one-vs-rest, or the positive class's if binary."""
    pairs = [trace_ranking(rank_images(held.probabilities[:, k], held.labels == k)) for k in held.ranked]
    return {
        name: Curve(float(np.mean([c.score for c in curves])), np.mean([c.influence for c in curves], axis=0))
        for name, curves in zip(("roc_auc", "pr_auc"), zip(*pairs, strict=True), strict=False)
    }


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
        resamples: Bootstrap resamples; accuracy and the ranking scores need none.
        seed: Seed of the resampling.
        confidence: Two-sided coverage of each interval.
        progress: Called with (resamples done, resamples in all).
    """
    score = prepare_answers(held)
    samples = bootstrap_scores(
        score, held.labels, resamples=resamples, seed=seed, groups=held.groups, progress=progress
    )
    return (
        bound_accuracy(held, confidence)
        | bound_answers(held, score, samples, confidence)
        | bound_curves(held, confidence)
    )


def bound_accuracy(held: HeldOut, confidence: float) -> dict[str, float]:
    """Return the accuracy with its interval."""
    n, hits = len(held.labels), int(np.sum(held.predicted == held.labels))
    influence = trace_shares(held.labels, held.predicted, len(held.names))["accuracy"].influence
    design = measure_design(influence, held.labels, held.groups, confidence)
    low, high = wilson_interval(design.shrink(hits), design.shrink(n), confidence)
    return {"accuracy": hits / n, "accuracy_low": float(low), "accuracy_high": float(high)}


def bound_answers(held: HeldOut, score: Score, samples: dict[str, np.ndarray], confidence: float) -> dict[str, float]:
    """Return what ``score`` gives, each with the interval that its ``samples`` make."""
    bounded = {}
    for name, point in score(np.ones((1, len(held.labels)))).items():
        low, high = bound_score(name, samples[name], float(point[0]), held, confidence)
        bounded |= {name: float(point[0]), f"{name}_low": low, f"{name}_high": high}
    return bounded


def bound_curves(held: HeldOut, confidence: float) -> dict[str, float]:
    """Return the ranking scores, each with its interval; nothing where there is no ranking."""
    sizes = np.bincount(held.labels, minlength=len(held.names))
    others, sizes = (len(held.labels) - sizes)[held.ranked], sizes[held.ranked]
    # One image ranked worst costs the area 1/n, but the precision about twice that: of its own and of later hits.
    smaller = {"roc_auc": np.minimum(sizes, others), "pr_auc": sizes / 2}
    bounded = {}
    for name, curve in trace_curves(held).items():
        design = measure_design(curve.influence, held.labels, held.groups, confidence)
        variance = spread_variance(curve.influence, held.labels, held.groups)
        n = rest_on(smaller[name]) / design.effect
        low, high = pseudo_count_interval(curve.score, variance, n, confidence, penalty=design.penalty)
        bounded |= {name: curve.score, f"{name}_low": low, f"{name}_high": high}
    return bounded


def rest_on(sizes: np.ndarray) -> float:
    """Return the images that a mean over classes of ``sizes`` images rests on: as many as a proportion would need."""
    return len(sizes) ** 2 / float(np.sum(1 / sizes))


def bound_score(
    name: str, samples: np.ndarray, estimate: float, held: HeldOut, confidence: float
) -> tuple[float, float]:
    """Return the interval of one score in the way that fits its kind; ``samples`` are its values over resamples."""
    stage = "raw" if name.endswith("_uncalibrated") else "probabilities"
    if name.startswith(("log_loss", "brier")):
        return bound_loss(getattr(held, stage), held, estimate, name.startswith("brier"), confidence)
    if name.startswith("ece"):
        binned = held.raw_binned if stage == "raw" else held.binned
        return bound_calibration(binned, held, samples, estimate, confidence)
    curve = trace_shares(held.labels, held.predicted, len(held.names))[name]
    design = measure_design(curve.influence, held.labels, held.groups, confidence)
    sizes = np.bincount(held.labels, minlength=len(held.names))
    n = rest_on(sizes[sizes > 0]) / design.effect
    return effective_interval(estimate, samples, n, confidence, penalty=design.penalty)


def bound_calibration(
    binned: Bins, held: HeldOut, samples: np.ndarray, estimate: float, confidence: float
) -> tuple[float, float]:
    """Return the interval of a calibration error; it is wide, because chance alone shows some.

    Below: all of the error may be chance. Above: some of the confident errors may not have been seen.
    """
    low, high = percentile_interval(samples, estimate, confidence, centred=True)
    design = measure_design(trace_calibration_error(binned).influence, held.labels, held.groups, confidence)
    n = len(held.labels) / design.effect
    unseen = pseudo_count_interval(estimate, float(np.var(samples)), n, confidence, penalty=design.penalty)[1]
    return max(0.0, low - measure_noise(binned, held.groups)), max(high, unseen)


def bound_loss(
    probabilities: np.ndarray, held: HeldOut, estimate: float, brier: bool, confidence: float
) -> tuple[float, float]:
    """Return the interval of a mean loss, as a share of what an image costs that is answered wholly wrong.

    For the log loss that is the worst image, or one whose runner-up was right, whichever costs more.
    """
    labels = held.labels
    if brier:
        losses, worst = measure_brier(probabilities, labels), 1.0 if probabilities.shape[1] == 2 else 2.0
    else:
        losses = measure_log_loss(probabilities, labels)
        runner_up = np.argsort(probabilities, axis=1)[:, -2]
        worst = max(float(losses.max()), float(measure_log_loss(probabilities, runner_up).mean()))
    n, share = len(labels), losses / worst
    influence = (share - share.mean()) / n
    design = measure_design(influence, labels, held.groups, confidence)
    variance = spread_variance(influence, labels, held.groups)
    low, high = pseudo_count_interval(estimate / worst, variance, n / design.effect, confidence, penalty=design.penalty)
    return low * worst, high * worst
