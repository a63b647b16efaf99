"""The tests under a drift verdict: columns, predicted classes, class weights, estimated accuracy.

Nothing here decides; ``regraft.data.drift.verdict`` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

MIN_EXPECTED = 5
"""Classes expected fewer times than this are pooled before a chi-square test (the usual rule of Cochran)."""


@dataclass(frozen=True, slots=True)
class ColumnTest:
    """One column of the reference against the same column of the window."""

    name: str
    statistic: float
    """Largest distance between the two cumulative distributions, 0-1."""
    p_value: float
    reference_median: float
    window_median: float


@dataclass(frozen=True, slots=True)
class FamilyTest:
    """Columns that measure the same kind of thing, corrected for how many they are."""

    p_value: float
    """Smallest p-value of the family, multiplied by the number of columns that vary (Bonferroni)."""
    columns: tuple[ColumnTest, ...]


def measure_distance(reference: np.ndarray, window: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the Kolmogorov-Smirnov distance (0-1) of two samples ``(N,)`` and ``(M,)``, the first one weighted."""
    order = np.argsort(reference, kind="stable")
    ordered = reference[order]
    mass = np.ones(len(reference)) if weights is None else weights[order].astype(np.float64)
    steps = np.concatenate([[0.0], np.cumsum(mass) / mass.sum()])
    points = np.concatenate([ordered, window])
    left = steps[np.searchsorted(ordered, points, side="right")]
    right = np.searchsorted(np.sort(window), points, side="right") / len(window)
    return float(np.abs(left - right).max())


def compare_column(
    reference: np.ndarray, window: np.ndarray, weights: np.ndarray | None = None, dependence: float = 1.0
) -> tuple[float, float]:
    """Return the Kolmogorov-Smirnov statistic and its p-value for two samples ``(N,)`` and ``(M,)``.

    Values that are not finite count as infinitely large: a window with NaN differs from a reference without. With
    ``weights`` the reference counts as Kish's effective number of rows, ``sum(w)^2 / sum(w^2)``; the window counts as
    ``M / dependence`` rows, see ``measure_dependence``. Without both this is ``scipy.stats.ks_2samp(method="asymp")``.
    """
    statistic = measure_distance(
        np.where(np.isfinite(reference), reference, np.inf), np.where(np.isfinite(window), window, np.inf), weights
    )
    rows = float(len(reference)) if weights is None else float(weights.sum() ** 2 / (weights**2).sum())
    told = len(window) / dependence
    effective = max(1.0, np.round(rows * told / (rows + told)))
    return statistic, float(stats.kstwo.sf(statistic, effective)) if statistic > 0 else 1.0


def find_median(values: np.ndarray) -> float:
    """Return the median of the finite values, NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def compare_columns(
    reference: np.ndarray,
    window: np.ndarray,
    names: Sequence[str],
    weights: np.ndarray | None = None,
    dependence: np.ndarray | None = None,
) -> FamilyTest:
    """Return the test of every column of ``(N, C)`` against ``(M, C)`` and of the family as a whole.

    ``dependence`` ``(C,)`` is that of each column of the window; none when None.

    Columns that are one and the same value everywhere say nothing and are not counted in the correction.
    """
    tests, varying = [], 0
    for index, name in enumerate(names):
        old, new = reference[:, index].astype(np.float64), window[:, index].astype(np.float64)
        varying += not (np.all(old == old[0]) and np.all(new == old[0]))
        statistic, p_value = compare_column(old, new, weights, 1.0 if dependence is None else float(dependence[index]))
        tests.append(ColumnTest(name, statistic, p_value, find_median(old), find_median(new)))
    smallest = min((test.p_value for test in tests), default=1.0)
    return FamilyTest(min(1.0, smallest * max(1, varying)), tuple(tests))


def pool_rare(table: np.ndarray) -> np.ndarray:
    """Return counts ``(2, cells)`` with the rarest merged until all expected counts reach ``MIN_EXPECTED``."""
    table = table[:, table.sum(axis=0) > 0].astype(np.float64)
    share = table.sum(axis=1).min() / max(1.0, table.sum())
    table = table[:, np.argsort(table.sum(axis=0), kind="stable")]
    while table.shape[1] > 1 and table[:, 0].sum() * share < MIN_EXPECTED:
        merged = np.concatenate([table[:, :1] + table[:, 1:2], table[:, 2:]], axis=1)
        table = merged[:, np.argsort(merged.sum(axis=0), kind="stable")]
    return table


def compare_classes(reference: np.ndarray, window: np.ndarray, classes: int, dependence: float = 1.0) -> float:
    """Return the chi-square p-value that predicted classes ``(N,)`` and ``(M,)`` come in the same shares.

    The window counts as ``M / dependence`` answers. With a single cell left after pooling there is nothing to compare
    and the answer is 1.
    """
    counts = [np.bincount(reference, minlength=classes), np.bincount(window, minlength=classes) / dependence]
    table = pool_rare(np.stack(counts))
    if table.shape[1] < 2:
        return 1.0
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def estimate_weights(confusion: np.ndarray, window_shares: np.ndarray, ridge: float = 0.02) -> np.ndarray:
    """Return by how much each class became more (>1) or less (<1) frequent, ``(K,)``, if only class shares changed.

    Args:
        confusion: Counts ``(K, K)`` by true (rows) and predicted (columns) class on the reference.
        window_shares: Shares of the predicted classes in the window, ``(K,)``.
        ridge: Pull towards 1, without which a small window gives wild weights.

    Source: black box shift estimation, Lipton et al. 2018 (arXiv 1802.03916); pulled as in Azizzadenesheli et al. 2019.
    """
    classes = len(confusion)
    joint = confusion.T / confusion.sum()  # joint[predicted, true]
    system = np.concatenate([joint, ridge * np.eye(classes)])
    target = np.concatenate([window_shares, np.full(classes, ridge)])
    weights, _ = optimize.nnls(system, target)
    total = float(joint.sum(axis=0) @ weights)
    return weights / total if total > 0 else np.ones(classes)


def measure_certainty(softmax: np.ndarray) -> np.ndarray:
    """Return the negative entropy of each row of ``(N, K)``, in nats; 0 is certain, ``-log K`` knows nothing."""
    safe = np.clip(np.nan_to_num(softmax, nan=0.0), 1e-12, 1.0)
    return np.sum(safe * np.log(safe), axis=1)


def estimate_accuracy(softmax: np.ndarray, confusion: np.ndarray, window_softmax: np.ndarray) -> float:
    """Return the accuracy (0-1) expected on the window without labels: the share of answers certain enough.

    The threshold is the one that gives the right accuracy on the reference ``(N, K)``. No such estimate can hold under
    every shift; it says where to look, not what is true.

    Source: average thresholded confidence with negative entropy, Garg et al. 2022 (arXiv 2201.04234).
    """
    wrong = 1 - np.trace(confusion) / confusion.sum()
    threshold = np.quantile(measure_certainty(softmax), wrong)
    return float(np.mean(measure_certainty(window_softmax) >= threshold))


def correct_holm(p_values: dict[str, float]) -> dict[str, float]:
    """Return Holm's corrected p-values: a family below alpha is wrong with at most that chance over all families."""
    corrected, floor = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: (p_values[key], key))):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = floor
    return corrected
