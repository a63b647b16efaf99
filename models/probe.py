"""The linear probe: multinomial logistic regression on standardised features, its strength chosen from a small grid."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

logger = logging.getLogger(__name__)

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse L2 penalties tried, scikit-learn's ``C`` on standardised features."""

MIN_STD_SHARE = 0.1
"""Floor of a feature's standard deviation, as a share of the median: a dead channel must not be blown up."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier on standardised features; K classes, D features.

    Attributes:
        weight: ``(K, D)`` float32.
        bias: ``(K,)`` float32.
        mean: ``(D,)`` float32, subtracted from the features.
        std: ``(D,)`` float32, divided out after that.
        strength: The chosen inverse penalty.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    strength: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return logits ``(N, K)`` of features ``(N, D)``."""
        return ((features - self.mean) / self.std) @ self.weight.T + self.bias


def measure_spread(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and floored standard deviation of each feature, both ``(D,)`` float32."""
    wide = features.astype(np.float64)
    std = wide.std(axis=0)
    floor = max(MIN_STD_SHARE * float(np.median(std)), 1e-6)
    return wide.mean(axis=0).astype(np.float32), np.maximum(std, floor).astype(np.float32)


def fit_probe(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
    seed: int = 0,
) -> Probe:
    """Fit a probe; the penalty with the lowest log loss on ``validation`` (or by cross-validation) wins.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` integers in 0..K-1; every class occurs.
        classes: K.
        validation: Features ``(M, D)`` and labels ``(M,)`` to choose the penalty on.
        strengths: Inverse penalties to try, ascending; of equals the first, the stronger penalty, is taken.
        folds: Of the cross-validation; lowered to the smallest class.
        seed: Of the folds.

    Raises:
        ValueError: If a class has no image.
    """
    absent = sorted(set(range(classes)) - set(np.unique(labels).tolist()))
    if absent:
        raise ValueError(f"classes {absent} of {classes} have no training image; a head cannot learn them.")
    mean, std = measure_spread(features)
    standard = (features - mean) / std
    if validation is not None:
        splits = [(standard, labels, (validation[0] - mean) / std, validation[1])]
    else:
        splits = [(standard[a], labels[a], standard[b], labels[b]) for a, b in make_folds(labels, folds, seed)]
    losses = [sum(rate_strength(c, classes, *split) for split in splits) for c in strengths] if splits else [0.0]
    strength = float(strengths[int(np.argmin(losses))])
    weight, bias = fit_logistic(standard, labels, classes, strength)
    return Probe(weight.astype(np.float32), bias.astype(np.float32), mean, std, strength)


def make_folds(labels: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, held-out) rows of a stratified cross-validation; empty if a class has a single image."""
    folds = min(folds, int(np.bincount(labels)[np.unique(labels)].min()))
    if folds < 2:
        return []
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels[:, None], labels))


def rate_strength(
    strength: float, classes: int, x: np.ndarray, y: np.ndarray, held_x: np.ndarray, held_y: np.ndarray
) -> float:
    """Return the summed log loss on held-out images of a probe fitted with ``strength``, in nats."""
    weight, bias = fit_logistic(x, y, classes, strength)
    return sum_log_loss(held_x @ weight.T + bias, held_y)


def sum_log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the summed negative log probability of the labels, in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return float(np.sum(np.log(np.exp(shifted).sum(axis=1)) - chosen))


def fit_logistic(x: np.ndarray, y: np.ndarray, classes: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weight ``(K, D)`` and bias ``(K,)`` of a multinomial logistic regression.

    With fewer images than features the fit runs in the span of the images: the optimum is the same and it is faster.
    """
    # One thread: the matrices are small, and threads that wait for each other were measured twenty times slower.
    with threadpool_limits(1, user_api="blas"):
        return _fit_logistic(x, y, classes, strength)


def _fit_logistic(x: np.ndarray, y: np.ndarray, classes: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    basis = None
    if x.shape[0] < x.shape[1]:
        basis = np.linalg.qr(x.T.astype(np.float64))[0]  # (D, N)
        x = x @ basis
    model = LogisticRegression(C=strength, max_iter=1000, tol=1e-5)
    with warnings.catch_warnings():
        # A near-separable problem creeps on for ever; where it stands after so many steps is good enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x.astype(np.float64), y)
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -30.0)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes: halves of opposite sign say the same
        weight[model.classes_] = np.concatenate([-model.coef_, model.coef_]) / 2
        bias[model.classes_] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    return (weight if basis is None else weight @ basis.T), bias
