"""The linear probe: multinomial logistic regression on standardised features, its ``C`` chosen from a grid."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, logsumexp
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from regraft.models.features.directions import find_directions, measure_spread
from regraft.models.features.logistic_regression import fit_softmax
from regraft.models.statistics.class_weights import weigh_classes
from regraft.models.statistics.intervals import hold_together

logger = logging.getLogger(__name__)

CS = (0.0003, 0.001, 0.01, 0.1, 1.0)
"""Inverse L2 penalties tried, scikit-learn's ``C`` on standardised features."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier on standardised features; K classes, D features.

    Attributes:
        weight: ``(K, D)`` float32.
        bias: ``(K,)`` float32.
        mean: ``(D,)`` float32, subtracted from the features.
        std: ``(D,)`` float32, divided out after that.
        c: The chosen inverse penalty, scikit-learn's ``C``.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    c: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return logits ``(N, K)`` of features ``(N, D)``."""
        return ((features - self.mean) / self.std) @ self.weight.T + self.bias


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """What probes said of images they were not fitted on.

    Attributes:
        c: The inverse penalty with the least log loss; of equals the smaller one, the stronger penalty.
        logits: ``(N, K)`` out of fold, at that ``c``; of several repeats the log of the mean probability.
        losses: Mean log loss in nats of every ``c`` tried, over all repeats.
    """

    c: float
    logits: np.ndarray
    losses: dict[float, float]


@dataclass(frozen=True, slots=True)
class Folds:
    """How images are dealt into folds.

    Attributes:
        number: Lowered to the smallest class; with a class of one image nothing is held out.
        repeats: Times that the images are dealt anew, one at least: with few of them much depends on how they fall.
        seed: Of the folds.
        groups: ``(N,)`` integers, equal for images that belong together: then no fold parts them.
    """

    number: int = 5
    repeats: int = 1
    seed: int = 0
    groups: np.ndarray | None = None


def cross_validate(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    widths: Sequence[int] | None = None,
    cs: Sequence[float] = CS,
    rare_weight: float = 0.0,
    folds: Folds | None = None,
) -> CrossValidation:
    """Choose the penalty by the log loss on held-out folds; all folds share one standardisation, which sees no label.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` integers in 0..K-1.
        classes: K.
        widths: Blocks of the features.
        cs: Inverse penalties to try, ascending; where nothing can be held out the first is taken unseen.
        rare_weight: See ``weigh_classes``; held-out images weigh alike in any case.
        folds: How the images are dealt into folds; the defaults when None.
    """
    folds = folds or Folds()
    mean, std = measure_spread(features, widths)
    reduced, _ = find_directions((features - mean) / std)
    logits = np.zeros((folds.repeats, len(cs), len(labels), classes))
    for number in range(folds.repeats):
        for train, held in make_folds(labels, folds.number, folds.seed + number, folds.groups):
            path = fit_path(reduced[train], labels[train], classes, cs, rare_weight)
            for place, (weight, bias) in enumerate(path):
                logits[number, place, held] = reduced[held] @ weight.T + bias
    losses = np.mean([[sum_log_loss(each, labels) for each in dealt] for dealt in logits], axis=0) / len(labels)
    best = int(np.argmin(losses))
    said = logits[0, best]
    if folds.repeats > 1:
        said = logsumexp(log_softmax(logits[:, best], axis=2), axis=0) - np.log(folds.repeats)
    return CrossValidation(
        float(cs[best]), said.astype(np.float32), dict(zip(map(float, cs), losses.tolist(), strict=True))
    )


def fit_probe(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    c: float,
    widths: Sequence[int] | None = None,
    rare_weight: float = 0.0,
) -> Probe:
    """Fit a probe.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` integers in 0..K-1; every class occurs.
        classes: K.
        c: Inverse penalty, for instance that of ``cross_validate``.
        widths: Blocks of the features.
        rare_weight: See ``weigh_classes``.

    Raises:
        ValueError: If a class has no image.
    """
    absent = sorted(set(range(classes)) - set(np.unique(labels).tolist()))
    if absent:
        raise ValueError(f"classes {absent} of {classes} have no training image; a head cannot learn them.")
    mean, std = measure_spread(features, widths)
    weight, bias = fit_logistic((features - mean) / std, labels, classes, c, rare_weight)
    return Probe(weight.astype(np.float32), bias.astype(np.float32), mean, std, c)


def make_folds(
    labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, held-out) rows of a stratified cross-validation; empty if a class has a single image.

    Images of one of the ``groups`` ``(N,)`` are held out together. Where a class has a single group that cannot be:
    then images are dealt one by one.
    """
    held = hold_together(groups)
    if held is not None and (dealt := _deal_groups(labels, folds, seed, held)):
        return dealt
    folds = min(folds, int(np.bincount(labels)[np.unique(labels)].min()))
    if folds < 2:
        return []
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels[:, None], labels))


def _deal_groups(labels: np.ndarray, folds: int, seed: int, held: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return folds of whole groups, each taught by every class; empty where there are none such."""
    classes = np.unique(labels)
    folds = min([folds, *(len(np.unique(held[labels == label])) for label in classes)])
    if folds < 2:
        return []
    deal = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    dealt = list(deal.split(labels[:, None], labels, held))
    return dealt if all(len(np.unique(labels[train])) == len(classes) for train, _ in dealt) else []


def sum_log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the summed negative log probability of the labels, in nats."""
    return float(np.sum(list_log_losses(logits, labels)))


def list_log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the negative log probability ``(N,)`` of each label, in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def fit_logistic(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    c: float,
    rare_weight: float = 0.0,
    row_weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight ``(K, D)`` and bias ``(K,)`` of a multinomial logistic regression on the strongest directions."""
    along, basis = find_directions(x)
    weight, bias = next(fit_path(along, y, classes, [c], rare_weight, row_weights))
    return weight @ basis.T, bias


def fit_path(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    cs: Sequence[float],
    rare_weight: float = 0.0,
    row_weights: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield weight ``(K, D)`` and bias ``(K,)`` for each ``c``, every fit starting where the last one ended.

    A class without an image in ``y`` is never answered. ``row_weights`` ``(N,)`` are what each row counts; alike when
    None.
    """
    present, codes = np.unique(y, return_inverse=True)
    weighing = weigh_classes(y, classes, rare_weight)
    rows = np.ones(len(y)) if row_weights is None else np.asarray(row_weights, dtype=np.float64)
    rows = rows if weighing is None else rows * weighing[y]
    wide, found = x.astype(np.float64), None
    for c in cs:
        # One thread: the matrices are small, and threads that wait for each other were measured twenty times slower.
        with threadpool_limits(1, user_api="blas"):
            # Of two classes scikit-learn penalises one row of weights, where here are two halves of opposite sign.
            found = fit_softmax(wide, codes, c / 2 if len(present) == 2 else c, rows, found)
        weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -30.0)
        weight[present], bias[present] = found[:-1].T, found[-1] - found[-1].mean()
        yield weight, bias
