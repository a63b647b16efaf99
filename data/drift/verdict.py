"""Does a window of production still look like the reference, and if not, did the images change or only their mix?

The tests are in ``data.drift.comparison`` and ``data.drift.statistics``, the words in ``data.drift.wording``.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from regraft.data.drift import wording
from regraft.data.drift.comparison import Comparison, Window, check_window, compare_window, keep_distinct
from regraft.data.drift.config import WatchConfig
from regraft.data.drift.reference import Reference
from regraft.data.drift.statistics import ColumnTest, FamilyTest, correct_holm

logger = logging.getLogger(__name__)

FOREIGN_DISTANCE = 0.5
"""Kolmogorov-Smirnov distance along one embedding direction from which on a window is foreign to the reference. A strip
line with another lamp and camera was measured at 0.75 (the model then erred on most images, at full confidence), a
class of three times its share at 0.24."""

CLEAR = 0.01
"""Chance up to which a figure is said to have moved, once it is certain that something has."""
SUSPECT = 0.2
"""Corrected p-value up to which a window is put beside the known states too."""
KNOWN = "A change that an audit has found to do no harm."
WINDOWS_PER_MONTH = 720
"""Where nobody says how often windows are judged: hourly."""

Kind = Literal["none", "image", "label", "both"]


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """What the tests say about a window, with everything they said it from."""

    decision: Literal["insufficient", "quiet", "drift"]
    kind: Kind
    """"image": lamp, camera, material; "label": only the mix of classes; "none" unless the decision is drift."""
    reason: str
    """One sentence for the people at the line."""
    n: int
    """Distinct images in the window."""
    repeats: int
    """Answers left out because their image had been counted."""
    reference_n: int
    told: float
    """Independent images that the window is worth: fewer than ``n`` where neighbours resemble each other."""
    alpha: float
    """Chance of a false alarm that this window may have; also the threshold for ``p_value``."""
    p_value: float
    """Smallest of ``corrected``; 1 if nothing was tested."""
    corrected: dict[str, float]
    """Family -> p-value corrected for its columns (Bonferroni) and for the families (Holm)."""
    families: dict[str, FamilyTest]
    """Family -> its columns, before the correction over families."""
    unexplained: dict[str, float]
    """Family -> p-value against the reference re-weighted to the window's mix: small means the images changed."""
    changes: tuple[ColumnTest, ...]
    """Quality figures that moved beyond chance, the most changed first."""
    class_shares: dict[str, tuple[float, float]]
    """Class -> share in the reference and in the window, the latter estimated; holds if the images did not change."""
    reference_accuracy: float
    estimated_accuracy: float
    """Without labels, so a hint; NaN if nothing was tested."""

    @property
    def drifted(self) -> bool:
        """Whether the decision is drift."""
        return self.decision == "drift"

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and finite numbers; NaN becomes ``None``."""
        return replace_nan(asdict(self))


def replace_nan(value: Any) -> Any:
    """Return ``value`` with tuples as lists and numbers that JSON lacks as ``None``."""
    if isinstance(value, dict):
        return {str(key): replace_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nan(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def find_changes(quality: FamilyTest, alpha: float) -> tuple[ColumnTest, ...]:
    """Return the quality figures that moved beyond chance, the largest distance first."""
    moved = [test for test in quality.columns if test.p_value * len(quality.columns) <= alpha]
    return tuple(sorted(moved, key=lambda test: (-test.statistic, test.name)))


def is_foreign(comparison: Comparison) -> bool:
    """Say whether the window lies so far from the reference that the model's confidence says nothing about itself."""
    columns = comparison.families["embedding"].columns
    return max((column.statistic for column in columns), default=0.0) >= FOREIGN_DISTANCE


def judge_kind(corrected: dict[str, float], comparison: Comparison, drop: float, config: WatchConfig) -> Kind:
    """Return what changed, once something has.

    If the reference, re-weighted to the window's mix of classes, fits the window, the mix explains all. If not, the
    images changed; then predicted classes say something about the mix only while the model still seems to work.

    Args:
        corrected: Family -> corrected p-value.
        comparison: Its tests against the re-weighted reference.
        drop: Estimated fall of the accuracy, 0-1; NaN where it cannot be estimated.
        config: Thresholds.
    """
    unexplained = comparison.unexplained
    images_moved = min(unexplained.values()) * len(unexplained) <= CLEAR
    mix_moved = min(corrected["labels"], corrected["softmax"]) <= CLEAR
    if not images_moved and mix_moved:
        return "label"
    clear_mix = corrected["labels"] <= CLEAR and drop <= config.harmful_drop
    return "both" if images_moved and clear_mix else "image"


def refuse_window(
    reference: Reference, n: int, repeats: int, told: float, alpha: float, config: WatchConfig
) -> DriftVerdict:
    """Return the verdict for a window that says too little: few distinct images, or many that resemble each other."""
    reason = f"Not enough images to tell: {n} different ones, {config.min_window} are needed."
    if n >= config.min_window:
        reason = (
            f"Not enough images to tell: neighbours resemble each other, so that {n} say as much as {told:.0f} would "
            f"by themselves; {config.min_told} are needed."
        )
    return DriftVerdict(
        decision="insufficient",
        kind="none",
        reason=reason,
        n=n,
        repeats=repeats,
        reference_n=len(reference.softmax),
        told=told,
        alpha=alpha,
        p_value=1.0,
        corrected={},
        families={},
        unexplained={},
        changes=(),
        class_shares={},
        reference_accuracy=reference.accuracy,
        estimated_accuracy=float("nan"),
    )


def give_reason(
    kind: Kind, changes: Sequence[ColumnTest], shares: dict[str, tuple[float, float]], accuracy: str, p_value: float
) -> str:
    """Return the sentence for a window that was tested."""
    if kind == "none":
        return f"The images look like those the model was accepted on (smallest corrected p {p_value:.2g}); {accuracy}."
    parts = []
    if kind in ("image", "both"):
        parts.append(wording.describe_images(changes))
    if kind in ("label", "both"):
        parts.append(wording.describe_mix(shares))
    if kind == "label":
        parts.append("the images themselves look as before")
    return wording.capitalise("; ".join([*parts, accuracy])) + "."


def judge_window(
    reference: Reference,
    window: Window,
    config: WatchConfig | None = None,
    labels: Sequence[str] | None = None,
    *,
    known: Sequence[Reference] = (),
    windows_per_month: float = WINDOWS_PER_MONTH,
) -> DriftVerdict:
    """Return whether and how a window of one version differs from that version's reference.

    Args:
        reference: Held-out answers the version was accepted on.
        window: Answers of the same version in production.
        config: Thresholds; the defaults if left out.
        labels: Names of the K classes; "class 0" and so on if left out.
        known: The reference as it would be with images that came later and were found to do no harm. A window that
            looks like one of them is quiet.
        windows_per_month: That are judged; with the false alarms that a month may have, the threshold.

    Raises:
        ValueError: If the arrays of the window do not fit those of the reference.
    """
    config = config or WatchConfig()
    check_window(reference, window)
    rows = keep_distinct(window.image_sha256)
    repeats, alpha = len(window.image_sha256) - len(rows), config.limit_chance(windows_per_month)
    if len(rows) < config.min_window:
        return refuse_window(reference, len(rows), repeats, float(len(rows)), alpha, config)
    comparison = compare_window(reference, window, rows)
    if comparison.told < config.min_told:
        return refuse_window(reference, len(rows), repeats, comparison.told, alpha, config)
    names = labels or [f"class {index}" for index in range(len(comparison.class_shares))]
    counts = {"n": len(rows), "repeats": repeats}
    verdict = judge_comparison(reference, comparison, config, alpha, names, **counts)
    # Slow change is added up from p-values: one that a known state explains must not count for it either.
    others = [
        judge_comparison(other, compare_window(other, window, rows), config, alpha, names, **counts)
        for other in (known if verdict.p_value <= SUSPECT else ())
    ]
    best = max([verdict, *others], key=lambda each: each.p_value)
    if best is verdict or best.drifted:
        return verdict
    # How well the version answers is known of the images that it was accepted on.
    return replace(
        best,
        reason=f"{KNOWN} {best.reason}" if verdict.drifted else verdict.reason,
        reference_accuracy=verdict.reference_accuracy,
        estimated_accuracy=verdict.estimated_accuracy,
    )


def judge_comparison(
    reference: Reference,
    comparison: Comparison,
    config: WatchConfig,
    alpha: float,
    names: Sequence[str],
    *,
    n: int,
    repeats: int,
) -> DriftVerdict:
    """Return what the tests of a window amount to.

    Args:
        reference: Held-out answers the version was accepted on.
        comparison: Every test of the window against it.
        config: Thresholds.
        alpha: Chance of a false alarm that the window may have.
        names: Of the K classes.
        n: Distinct images in the window.
        repeats: Answers left out because their image had been counted.
    """
    corrected = correct_holm({name: family.p_value for name, family in comparison.families.items()})
    p_value = min(corrected.values())
    estimated = float("nan") if is_foreign(comparison) else comparison.estimated_accuracy
    drop = reference.accuracy - estimated
    kind = judge_kind(corrected, comparison, drop, config) if p_value <= alpha else "none"
    shares = dict(zip(names, comparison.class_shares, strict=True))
    changes = find_changes(comparison.families["quality"], CLEAR)
    accuracy = wording.describe_accuracy(reference.accuracy, estimated)
    logger.info(
        "window judged n=%d told=%.0f kind=%s p_value=%.3g alpha=%.2g", n, comparison.told, kind, p_value, alpha
    )
    return DriftVerdict(
        decision="quiet" if kind == "none" else "drift",
        kind=kind,
        reason=give_reason(kind, changes, shares, accuracy, p_value),
        n=n,
        repeats=repeats,
        reference_n=len(reference.softmax),
        told=comparison.told,
        alpha=alpha,
        p_value=p_value,
        corrected=corrected,
        families=comparison.families,
        unexplained=comparison.unexplained,
        changes=changes,
        class_shares=shares,
        reference_accuracy=reference.accuracy,
        estimated_accuracy=estimated,
    )
