"""How each candidate backbone wants its images, and the score of its features on a small labelled sample."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
from sklearn.model_selection import RepeatedStratifiedKFold

from models.backbones import BackboneInput
from models.probe import fit_logistic, measure_spread
from serving.preprocess import PreprocessSpec

logger = logging.getLogger(__name__)

Fit = Literal["auto", "squash", "crop", "letterbox"]
NEAR_SQUARE = 1.15
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")


def choose_fit(fit: Fit, sizes: np.ndarray) -> Literal["squash", "crop", "letterbox"]:
    """Return how images are brought to a square; "auto" squashes if nine in ten are nearly square, else crops.

    Args:
        fit: What is asked for.
        sizes: ``(N, 2)`` width and height of the images, in px.
    """
    if fit != "auto":
        return fit
    aspects = sizes.max(axis=1) / np.maximum(sizes.min(axis=1), 1)
    return "squash" if np.mean(aspects <= NEAR_SQUARE) >= 0.9 else "crop"


def describe_preprocess(wanted: BackboneInput, fit: Literal["squash", "crop", "letterbox"]) -> PreprocessSpec:
    """Return the preprocessing a backbone wants.

    The whole shorter side is kept when cropping: a defect at the border must not be cut away.
    """
    interpolation = wanted.interpolation if wanted.interpolation in INTERPOLATIONS else "bicubic"
    return PreprocessSpec(size_px=wanted.size_px, fit=fit, interpolation=interpolation, crop_share=1.0)


def sample_rows(labels: np.ndarray, rows: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Return at most ``limit`` of ``rows``, sorted, as equally spread over the classes as they allow."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(np.sort(rows))
    # The k-th image of every class comes before the (k+1)-th of any.
    ranks = np.empty(len(shuffled), dtype=np.int64)
    for label in np.unique(labels[rows]):
        members = np.flatnonzero(labels[shuffled] == label)
        ranks[members] = np.arange(len(members))
    return np.sort(shuffled[np.argsort(ranks, kind="stable")][:limit])


def score_features(
    features: np.ndarray, labels: np.ndarray, *, strengths: Sequence[float], folds: int, repeats: int, seed: int
) -> tuple[np.ndarray, float]:
    """Return each image's hits in every repeat of a cross-validated linear probe, ``(R, N)`` bool, and the penalty.

    The penalty with the most right answers is taken, of equals the stronger.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` integers.
        strengths: Inverse penalties to try, ascending.
        folds: Lowered to the smallest class; classes with one image are never held out rightly.
        repeats: Of the whole cross-validation, differently shuffled.
        seed: Of the shuffles.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    folds = max(2, min(folds, int(np.bincount(codes).min())))
    splitter = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    right = np.zeros((len(strengths), repeats, len(codes)), dtype=bool)
    for number, (train, held) in enumerate(splitter.split(codes[:, None], codes)):
        mean, std = measure_spread(features[train])
        x, held_x = (features[train] - mean) / std, (features[held] - mean) / std
        for i, strength in enumerate(strengths):
            weight, bias = fit_logistic(x, codes[train], len(classes), strength)
            right[i, number // folds, held] = (held_x @ weight.T + bias).argmax(axis=1) == codes[held]
    best = int(np.argmax(right.sum(axis=(1, 2))))
    return right[best], float(strengths[best])
