"""The gate between a new model and the champion's place: a paired comparison on the same frozen test images.

A gate answers ``promote``, ``keep`` or ``undecided`` with its numbers; it never acts.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field
from scipy.special import ndtri
from scipy.stats import binomtest

from models.intervals import normal_quantile, wilson_interval

Decision = Literal["promote", "keep", "undecided"]
POWER = 0.8
"""Chance of settling a difference of the stated size with the stated number of images."""


class GateConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What a challenger must show to become champion."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Two-sided coverage of the interval; 1 - confidence bounds the share of false promotions."""
    max_forgetting: float = Field(0.03, ge=0, le=1)
    """Accuracy that a challenger may lose on a guarded slice, as a share of its images."""
    guarded: tuple[str, ...] = ("old",)
    """Slices on which forgetting counts."""
    floor: float = Field(0.0, ge=0, le=1)
    """Accuracy below which nothing is promoted, whatever it beats."""
    smallest_gain: float = Field(0.01, gt=0, le=1)
    """Difference worth settling; it sizes the request for more images when the observed one is smaller."""
    resamples: int = Field(10_000, ge=1000)
    """Paired bootstrap resamples."""
    seed: int = Field(0, ge=0)
    """Seed of the resampling."""


@dataclass(frozen=True, slots=True)
class SliceResult:
    """Accuracies of both versions on one slice of the test images; ``difference`` is challenger minus champion."""

    name: str
    n: int
    champion: float
    challenger: float
    difference: float


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The gate's answer. ``statistic`` must have its ``low`` above ``threshold`` for a promotion.

    Against a champion the statistic is the difference of accuracies and ``p_value`` McNemar's exact one (two-sided);
    without one it is the accuracy and ``p_value`` the exact binomial one against the largest class (one-sided).
    ``wins`` and ``losses`` count images that only the challenger, or only the champion, got right. ``needed`` is about
    how many more test images would settle it.
    """

    decision: Decision
    reason: str
    statistic: float
    low: float
    high: float
    threshold: float
    n: int
    p_value: float
    confidence: float
    challenger_accuracy: float
    champion_accuracy: float | None = None
    wins: int = 0
    losses: int = 0
    needed: int | None = None
    slices: tuple[SliceResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "slices": [asdict(part) for part in self.slices]}


def resample_difference(wins: int, losses: int, n: int, config: GateConfig) -> tuple[float, float]:
    """Return the paired bootstrap interval of the difference of accuracies.

    A resample of image pairs matters only through its counts of wins and losses, which are multinomial.
    """
    shares = [wins / n, losses / n, (n - wins - losses) / n]
    draws = np.random.default_rng(config.seed).multinomial(n, shares, size=config.resamples)
    tail = (1 - config.confidence) / 2
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [tail, 1 - tail])
    return float(low), float(high)


def estimate_needed(wins: int, losses: int, n: int, config: GateConfig) -> tuple[int, float]:
    """Return about how many more images would settle the comparison, and the difference they would settle.

    Source: Connor, Biometrics 43 (1987), sample size of McNemar's test.
    """
    effect = max(abs(wins - losses) / n, config.smallest_gain)
    discordant = max((wins + losses) / n, effect)
    z_power = float(ndtri(POWER))
    spread = normal_quantile(config.confidence) * math.sqrt(discordant)
    total = ((spread + z_power * math.sqrt(max(discordant - effect**2, 0.0))) / effect) ** 2
    return max(1, math.ceil(total) - n), effect


def compare_slices(champion: np.ndarray, challenger: np.ndarray, slices: Mapping[str, np.ndarray]) -> list[SliceResult]:
    """Return both accuracies on every slice that holds images, by name."""
    results = []
    for name in sorted(slices):
        mask = np.asarray(slices[name], dtype=bool)
        if mask.any():
            old, new = float(champion[mask].mean()), float(challenger[mask].mean())
            results.append(SliceResult(name, int(mask.sum()), old, new, new - old))
    return results


def check_pairs(champion: np.ndarray, challenger: np.ndarray, slices: Mapping[str, np.ndarray]) -> None:
    """Raise one ValueError listing what does not fit."""
    problems = []
    if champion.ndim != 1 or champion.shape != challenger.shape:
        problems.append(f"champion and challenger answered {champion.shape} and {challenger.shape} images")
    if champion.size == 0:
        problems.append("there are no test images")
    problems += [
        f"slice {name!r} is a mask of shape {np.shape(mask)}, not {champion.shape}"
        for name, mask in sorted(slices.items())
        if np.shape(mask) != champion.shape
    ]
    if problems:
        raise ValueError("cannot compare versions: " + "; ".join(problems) + ". Score both on the same test images.")


def object_to_challenger(accuracy: float, parts: list[SliceResult], config: GateConfig) -> str | None:
    """Return why the challenger may not be promoted whatever its gain, or None."""
    if accuracy < config.floor:
        return f"its accuracy {accuracy:.4f} is below the floor {config.floor:.4f}"
    for part in parts:
        # The slack forgives rounding: a loss of exactly the allowed share is allowed.
        if part.name in config.guarded and -part.difference > config.max_forgetting + 1e-12:
            return (
                f"it forgets: {part.champion:.4f} fell to {part.challenger:.4f} on the {part.n} images of slice "
                f"{part.name!r}, more than the {config.max_forgetting:.4f} allowed"
            )
    return None


def compare_versions(
    champion_correct: np.ndarray,
    challenger_correct: np.ndarray,
    slices: Mapping[str, np.ndarray] | None = None,
    config: GateConfig | None = None,
) -> GateVerdict:
    """Decide whether the challenger takes the champion's place.

    ``promote`` needs the whole interval of the difference above 0 and McNemar's exact test to agree (with few differing
    answers the bootstrap alone promotes too easily), no forgetting on a guarded slice and an accuracy above the floor.
    ``keep``: worse, or one of these objections. ``undecided``: more images are needed.

    Args:
        champion_correct: Whether the champion was right on each test image, shape ``(N,)`` bool.
        challenger_correct: The same for the challenger, on the same images in the same order.
        slices: Masks ``(N,)`` of named parts, for instance ``old`` and ``new``; empty ones are passed over.
        config: Thresholds.

    Raises:
        ValueError: If the arrays do not fit together or are empty.
    """
    config = config or GateConfig()
    champion, challenger = np.asarray(champion_correct, dtype=bool), np.asarray(challenger_correct, dtype=bool)
    check_pairs(champion, challenger, slices or {})
    n = len(champion)
    wins, losses = int(np.sum(challenger & ~champion)), int(np.sum(champion & ~challenger))
    low, high = resample_difference(wins, losses, n, config)
    p_value = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    parts = compare_slices(champion, challenger, slices or {})
    accuracy = float(challenger.mean())
    decision, reason, needed = decide_comparison(wins, losses, n, (low, high), p_value, parts, accuracy, config)
    return GateVerdict(
        decision=decision,
        reason=reason,
        statistic=(wins - losses) / n,
        low=low,
        high=high,
        threshold=0.0,
        n=n,
        p_value=p_value,
        confidence=config.confidence,
        challenger_accuracy=accuracy,
        champion_accuracy=float(champion.mean()),
        wins=wins,
        losses=losses,
        needed=needed,
        slices=tuple(parts),
    )


def decide_comparison(
    wins: int,
    losses: int,
    n: int,
    bounds: tuple[float, float],
    p_value: float,
    parts: list[SliceResult],
    accuracy: float,
    config: GateConfig,
) -> tuple[Decision, str, int | None]:
    """Return decision, reason and the images still needed."""
    interval = f"{(wins - losses) / n:+.4f} [{bounds[0]:+.4f}, {bounds[1]:+.4f}] on {n} test images (p {p_value:.3g})"
    settled = p_value <= 1 - config.confidence
    if bounds[1] < 0 and settled:
        return "keep", f"the challenger is worse by {interval}", None
    objection = object_to_challenger(accuracy, parts, config)
    if objection is not None:
        return "keep", f"the challenger is not promoted: {objection}", None
    if bounds[0] > 0 and settled:
        return "promote", f"the challenger is better by {interval}", None
    needed, effect = estimate_needed(wins, losses, n, config)
    differ = (
        f"the difference {interval} is not told from 0" if wins + losses else f"both answer alike on {n} test images"
    )
    return "undecided", f"{differ}: about {needed} more would settle a difference of {effect:.4f}", needed


def judge_first(correct: np.ndarray, labels: np.ndarray, config: GateConfig | None = None) -> GateVerdict:
    """Decide whether a first model may become champion: it must be better than always naming the largest class.

    Args:
        correct: Whether the model was right on each test image, shape ``(N,)`` bool.
        labels: True classes of the same images, shape ``(N,)``.
        config: Confidence and floor.

    Raises:
        ValueError: If the arrays are empty or differ in length.
    """
    config = config or GateConfig()
    correct, labels = np.asarray(correct, dtype=bool), np.asarray(labels)
    if len(correct) == 0 or correct.shape != labels.shape:
        raise ValueError(f"cannot judge {correct.shape} answers with {labels.shape} labels; both need N > 0 entries.")
    n, hits = len(correct), int(correct.sum())
    majority = float(np.unique(labels, return_counts=True)[1].max() / n)
    threshold, accuracy = max(majority, config.floor), hits / n
    low, high = map(float, wilson_interval(hits, n, config.confidence))
    shown = f"accuracy {accuracy:.4f} [{low:.4f}, {high:.4f}] on {n} test images"
    bar = f"{threshold:.4f}, the {'largest class' if majority >= config.floor else 'floor'}"
    needed = None
    if low > threshold:
        decision, reason = "promote", f"{shown} beats {bar}"
    elif high < threshold or threshold >= 1:
        decision, reason = "keep", f"{shown} does not beat {bar}"
    else:
        gap = max(abs(accuracy - threshold), config.smallest_gain)
        spread = normal_quantile(config.confidence) + float(ndtri(POWER))
        needed = max(1, math.ceil(spread**2 * max(accuracy * (1 - accuracy), gap) / gap**2) - n)
        decision, reason = "undecided", f"{shown} is not told from {bar}: about {needed} more images would"
    return GateVerdict(
        decision=decision,
        reason=reason,
        statistic=accuracy,
        low=low,
        high=high,
        threshold=threshold,
        n=n,
        p_value=float(binomtest(hits, n, threshold, alternative="greater").pvalue),
        confidence=config.confidence,
        challenger_accuracy=accuracy,
        needed=needed,
    )
