"""The gate of a first version, which nobody can be compared with: is it better than always naming one class?

What a verdict is, and the gate against a champion, are in ``models/promotion/gate.py``.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm

from regraft.models.promotion.gate import GateConfig, GateVerdict
from regraft.models.statistics.intervals import normal_quantile, number_groups, spread_variance, wilson_interval
from regraft.models.statistics.paired import DOUBT, POWER, weigh_classes


def judge_first(
    correct: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str | None] | None = None,
    config: GateConfig | None = None,
) -> GateVerdict:
    """Decide whether a first model may become champion: it must be better than always naming one class.

    Every class weighs alike, so that naming always the same one is right on 1/K of them, however large its class.

    Args:
        correct: Whether the model was right on each test image, shape ``(N,)`` bool.
        labels: True classes of the same images, shape ``(N,)``.
        groups: What each image shows a piece of, N of them; None where it is not known.
        config: Confidence and floor.

    Raises:
        ValueError: If the arrays are empty or differ in length.
    """
    config = config or GateConfig()
    correct, labels = np.asarray(correct, dtype=bool), np.asarray(labels)
    if len(correct) == 0 or correct.shape != labels.shape:
        raise ValueError(f"cannot judge {correct.shape} answers with {labels.shape} labels; both need N > 0 entries.")
    n = len(correct)
    weights, strata = weigh_classes(labels)
    numbers = number_groups(groups if groups is not None else [None] * n)
    parts = np.bincount(numbers, weights)
    doubt = DOUBT / 2 / len(parts) * float(np.sum(parts**2))
    variance = spread_variance(weights * correct, strata, numbers) + doubt
    accuracy, chance = min(1.0, float(weights @ correct)), 1 / int(strata.max() + 1)
    # As many independent images as have this variance; with no error seen, Kish's size of the weights.
    size = min(float(len(parts)), (accuracy * (1 - accuracy) + 1 / len(parts)) / variance)
    low, high = map(float, wilson_interval(accuracy * size, size, config.confidence))
    threshold = max(chance, config.floor)
    shown = f"balanced accuracy {accuracy:.4f} [{low:.4f}, {high:.4f}] on {n} test images"
    shown += f" ({len(parts)} groups)" if len(parts) < n else ""
    bar = f"{threshold:.4f}, the {'share of one class' if chance >= config.floor else 'floor'}"
    needed = None
    if low > threshold:
        decision, reason = "promote", f"{shown} beats {bar}"
    elif high < threshold or threshold >= 1:
        decision, reason = "keep", f"{shown} does not beat {bar}"
    else:
        gap = max(abs(accuracy - threshold), config.smallest_gain)
        spread = normal_quantile(config.confidence) + float(ndtri(POWER))
        needed = max(1, math.ceil(spread**2 * max(variance * n, gap) / gap**2) - n)
        decision, reason = "undecided", f"{shown} is not told from {bar}: about {needed} more images would"
    return GateVerdict(
        decision=decision,
        reason=reason,
        statistic=accuracy,
        low=low,
        high=high,
        threshold=threshold,
        n=n,
        groups=len(parts),
        p_value=_test_share(accuracy, threshold, size),
        confidence=config.confidence,
        challenger_accuracy=accuracy,
        needed=needed,
    )


def _test_share(share: float, threshold: float, size: float) -> float:
    """Return the two-sided p-value of the test whose interval is Wilson's: below 1 - coverage where that leaves out
    ``threshold``.
    """
    if threshold >= 1:
        return 1.0
    return float(2 * norm.sf(abs(share - threshold) / math.sqrt(threshold * (1 - threshold) / size)))
