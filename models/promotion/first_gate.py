"""The gate of a first version, which nobody can be compared with: is it better than always naming one class?

What a verdict is, and the gate against a champion, are in ``models/promotion/gate.py``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm

from regraft.models.promotion.gate import Decision, GateConfig, GateVerdict
from regraft.models.statistics.intervals import normal_quantile, number_groups, spread_variance, wilson_interval
from regraft.models.statistics.merits import weigh_strata
from regraft.models.statistics.paired import POWER, PSEUDO_COUNT


@dataclass(frozen=True, slots=True)
class Share:
    """A balanced accuracy on N test images, every class of the same weight.

    Attributes:
        value: 0-1.
        variance: Of ``value`` over other groups of images, pseudo-count included.
        size: Independent images of equal weight that would have this variance.
        low: Lower end of its Wilson interval.
        high: Upper end.
        n: Test images.
        groups: That they come in; N where each is one by itself.
        chance: What always naming one class reaches, 1/K.
    """

    value: float
    variance: float
    size: float
    low: float
    high: float
    n: int
    groups: int
    chance: float

    def describe(self) -> str:
        """Return figure, interval and what they rest on, in words."""
        shown = f"balanced accuracy {self.value:.4f} [{self.low:.4f}, {self.high:.4f}] on {self.n} test images"
        return shown + (f" ({self.groups} groups)" if self.groups < self.n else "")


def judge_first(
    merits: np.ndarray,
    strata: np.ndarray,
    groups: Sequence[str | None] | None = None,
    config: GateConfig | None = None,
) -> GateVerdict:
    """Decide whether a first model may become champion: it must be better than always naming one class.

    Every stratum weighs alike; the strata are the true classes, so that naming always the same one has a mean merit of
    1/K, however large its class.

    Args:
        merits: Of the answer to each test image, ``(N,)``, 0-1; right or wrong is 1 or 0.
        strata: True classes of the same images, ``(N,)``.
        groups: What each image shows a piece of, N of them; None where it is not known.
        config: Confidence and floor.

    Raises:
        ValueError: If the arrays are empty or differ in length.
    """
    config = config or GateConfig()
    merits, strata = np.asarray(merits, dtype=np.float64), np.asarray(strata)
    if len(merits) == 0 or merits.shape != strata.shape:
        raise ValueError(f"cannot judge {merits.shape} answers with {strata.shape} labels; both need N > 0 entries.")
    share = measure_share(merits, strata, groups, config.confidence)
    threshold = max(share.chance, config.floor)
    decision, reason, needed = _decide(share, threshold, config)
    return GateVerdict(
        decision=decision,
        reason=reason,
        statistic=share.value,
        low=share.low,
        high=share.high,
        threshold=threshold,
        n=share.n,
        groups=share.groups,
        p_value=_test_share(share.value, threshold, share.size),
        confidence=config.confidence,
        challenger_accuracy=share.value,
        needed=needed,
    )


def measure_share(
    merits: np.ndarray, strata: np.ndarray, groups: Sequence[str | None] | None, confidence: float
) -> Share:
    """Return the mean of merits ``(N,)``, every stratum alike, with the interval of other groups of images."""
    n = len(merits)
    weights, codes = weigh_strata(strata)
    numbers = number_groups(groups if groups is not None else [None] * n)
    parts = np.bincount(numbers, weights)
    pseudo_count = PSEUDO_COUNT / 2 / len(parts) * float(np.sum(parts**2))
    variance = spread_variance(weights * merits, codes, numbers) + pseudo_count
    value = min(1.0, float(weights @ merits))
    # As many independent images as have this variance; with no error seen, Kish's size of the weights.
    size = min(float(len(parts)), (value * (1 - value) + 1 / len(parts)) / variance)
    low, high = map(float, wilson_interval(value * size, size, confidence))
    return Share(value, variance, size, low, high, n, len(parts), 1 / int(codes.max() + 1))


def _decide(share: Share, threshold: float, config: GateConfig) -> tuple[Decision, str, int | None]:
    """Return the decision, the sentence that says why, and about how many more images would settle an open one."""
    shown = share.describe()
    bar = f"{threshold:.4f}, the {'share of one class' if share.chance >= config.floor else 'floor'}"
    if share.low > threshold:
        return "promote", f"{shown} beats {bar}", None
    if share.high < threshold or threshold >= 1:
        return "keep", f"{shown} does not beat {bar}", None
    gap = max(abs(share.value - threshold), config.smallest_gain)
    spread = normal_quantile(config.confidence) + float(ndtri(POWER))
    needed = max(1, math.ceil(spread**2 * max(share.variance * share.n, gap) / gap**2) - share.n)
    return "undecided", f"{shown} is not told from {bar}: about {needed} more images would", needed


def _test_share(share: float, threshold: float, size: float) -> float:
    """Return the two-sided p-value of the test whose interval is Wilson's: below 1 - coverage where that leaves out
    ``threshold``.
    """
    if threshold >= 1:
        return 1.0
    return float(2 * norm.sf(abs(share - threshold) / math.sqrt(threshold * (1 - threshold) / size)))
