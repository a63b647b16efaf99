"""Whether rare classes are answered oftener than their share of the training images says: logit adjustment.

Post hoc and in the head alone: what is subtracted from the logits is folded into the bias, so that neither the network
nor what is served changes its form. Decision 38.
"""

from typing import Literal

import numpy as np

from regraft.models.classifier.checkpoint import ImbalanceFigures
from regraft.models.statistics.merits import rate_hits, weigh_total

Imbalance = Literal["auto", "plain", "logit_adjustment"]

EVEN = 1.5
"""Largest class over smallest up to which nothing is tried."""
GIVEN_AWAY = 0.01
"""Of the accuracy over all images that answering rare classes oftener may cost."""


def list_offsets(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return what is subtracted from each class's logit, ``(K,)`` float32: the log of its share, 0 for an even share.

    The answers are then those for a mix in which every class is as frequent as every other, as the verdicts weigh them.
    A class without an image keeps its logit. Source: Menon et al. 2021, Long-tail learning via logit adjustment, eq. 9,
    at tau = 1.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    counts[counts == 0] = len(labels) / classes
    return np.log(counts / len(labels) * classes).astype(np.float32)


def judge_imbalance(logits: np.ndarray, labels: np.ndarray, classes: int, wanted: Imbalance) -> ImbalanceFigures:
    """Return whether the logits are adjusted: no less is right where classes weigh alike, and hardly less in all.

    A tie speaks for it: four images of a rare class, all of them answered rightly, do not contradict what follows from
    how the verdict weighs.

    Args:
        logits: ``(N, K)`` of training images, each from a head that was not fitted on it.
        labels: ``(N,)`` integers.
        classes: K.
        wanted: "auto" decides here; the others are what they say.
    """
    counts = np.bincount(labels, minlength=classes)
    ratio = float(counts.max() / max(1, counts[counts > 0].min()))
    if wanted == "plain":
        return ImbalanceFigures(ratio=ratio, reason="plain was asked for")
    if ratio <= EVEN and wanted == "auto":
        return ImbalanceFigures(
            ratio=ratio, reason=f"the largest class has {ratio:.1f} times the smallest: even enough"
        )
    plain, adjusted = rate_hits(logits, labels), rate_hits(logits - list_offsets(labels, classes), labels)
    gain = weigh_total(adjusted, labels) - weigh_total(plain, labels)
    cost = float(np.mean(plain)) - float(np.mean(adjusted))
    taken = wanted == "logit_adjustment" or (gain >= 0 and cost <= GIVEN_AWAY)
    return ImbalanceFigures(
        ratio=ratio,
        way="logit_adjustment" if taken else "plain",
        balanced_plain=weigh_total(plain, labels),
        balanced_adjusted=weigh_total(adjusted, labels),
        worst_plain=rate_worst(plain, labels),
        worst_adjusted=rate_worst(adjusted, labels),
        reason=f"the largest class has {ratio:.1f} times the smallest; out of fold, with every class taken to be as "
        f"frequent as every other {100 * gain:+.1f} points of balanced accuracy and {-100 * cost:+.1f} over all images"
        f"{'' if taken else ': the answers stay as they were'}",
    )


def rate_worst(hits: np.ndarray, labels: np.ndarray) -> float:
    """Return the recall, 0-1, of the class with the least."""
    return min(float(hits[labels == label].mean()) for label in np.unique(labels))
