"""The linear probe fitted on views: every image as it is, and as another lamp, camera or pose would have given it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from regraft.models.features.directions import find_directions, measure_spread
from regraft.models.features.linear_probe import CS, Folds, Probe, fit_path, make_folds, sum_log_loss

VIEWS_SHARE = 0.5
"""Of the weight of an image in the fit that its views share; the rest is the image as it is."""


@dataclass(frozen=True, slots=True)
class ProbeProblem:
    """What every probe on the same images shares.

    Attributes:
        classes: K.
        widths: Blocks of the features; one when None.
        rare_weight: See ``weigh_classes``.
        folds: How the images are dealt into folds: once, whatever their ``repeats``.
    """

    classes: int
    widths: Sequence[int] | None = None
    rare_weight: float = 0.0
    folds: Folds = field(default_factory=Folds)


@dataclass(frozen=True, slots=True)
class ViewTrial:
    """What two probes said of images they were not fitted on: one fitted on the images, one on their views too.

    Attributes:
        c: Inverse penalty of the second with the least log loss on the images as they are.
        plain: ``(1 + V, N, K)`` logits out of fold of the first: of the images, then of each of their views.
        viewed: Likewise of the second.
    """

    c: float
    plain: np.ndarray
    viewed: np.ndarray


@dataclass(frozen=True, slots=True)
class ViewedFeatures:
    """Images and their views along the R strongest directions of them all; what every fit on them shares.

    Attributes:
        blocks: ``(1 + V, N, R)``: the images as they are, then each of their views.
        basis: ``(D, R)``, the directions among standardised features.
        mean: ``(D,)`` of the images as they are.
        std: Likewise.
    """

    blocks: np.ndarray
    basis: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, clean: np.ndarray, views: np.ndarray, widths: Sequence[int] | None = None) -> "ViewedFeatures":
        """Standardise by the images as they are ``(N, D)`` and turn them and their views ``(V, N, D)``."""
        mean, std = measure_spread(clean, widths)
        rows = ((np.concatenate([clean[None], views]) - mean) / std).reshape(-1, clean.shape[1])
        along, basis = find_directions(rows)
        return cls(along.reshape(1 + len(views), len(clean), -1), basis, mean, std)


def cross_validate_views(
    features: ViewedFeatures, labels: np.ndarray, problem: ProbeProblem, plain_c: float
) -> ViewTrial:
    """Hold out images with all of their views, fold by fold, and ask both probes about all of them.

    Args:
        features: Of N images and their views.
        labels: ``(N,)`` integers in 0..K-1.
        problem: Of both probes.
        plain_c: Inverse penalty of the plain probe; the other tries it and its neighbours in ``CS``.
    """
    cs, blocks = [c for c in CS if 0.05 < c / plain_c < 20], features.blocks
    plain = _hold_out(blocks, labels, 1, problem, [plain_c])[0]
    viewed = _hold_out(blocks, labels, len(blocks), problem, cs)
    best = int(np.argmin([sum_log_loss(each[0], labels) for each in viewed]))
    return ViewTrial(float(cs[best]), plain.astype(np.float32), viewed[best].astype(np.float32))


def hold_out_views(features: ViewedFeatures, labels: np.ndarray, problem: ProbeProblem, c: float) -> np.ndarray:
    """Return logits ``(N, K)`` of the images as they are, of probes fitted on the others and their views."""
    return _hold_out(features.blocks, labels, len(features.blocks), problem, [c])[0, 0].astype(np.float32)


def _hold_out(
    blocks: np.ndarray, labels: np.ndarray, taught: int, problem: ProbeProblem, cs: Sequence[float]
) -> np.ndarray:
    """Return logits ``(C, 1 + V, N, K)`` out of fold of probes fitted on the first ``taught`` blocks of the others."""
    logits = np.zeros((len(cs), *blocks.shape[:2], problem.classes))
    weights, folds = weigh_rows(blocks.shape[1], taught - 1).reshape(taught, -1), problem.folds
    for train, held in make_folds(labels, folds.number, folds.seed, folds.groups):
        rows, copies = blocks[:taught, train].reshape(-1, blocks.shape[2]), np.tile(labels[train], taught)
        path = fit_path(rows, copies, problem.classes, cs, problem.rare_weight, weights[:, train].reshape(-1))
        for place, (weight, bias) in enumerate(path):
            logits[place][:, held] = blocks[:, held] @ weight.T + bias
    return logits


def weigh_rows(count: int, views: int) -> np.ndarray:
    """Return what each row of images and then their views counts, ``(count * (1 + views),)``: in sum the images."""
    if not views:
        return np.ones(count)
    return np.repeat([1 - VIEWS_SHARE, *[VIEWS_SHARE / views] * views], count)


def fit_view_probe(features: ViewedFeatures, labels: np.ndarray, problem: ProbeProblem, c: float) -> Probe:
    """Fit a probe on N images and their views; see ``cross_validate_views``."""
    taught, count, _ = features.blocks.shape
    copies, weights = np.tile(labels, taught), weigh_rows(count, taught - 1)
    rows = features.blocks.reshape(len(copies), -1)
    weight, bias = next(fit_path(rows, copies, problem.classes, [c], problem.rare_weight, weights))
    weight = weight @ features.basis.T
    return Probe(weight.astype(np.float32), bias.astype(np.float32), features.mean, features.std, c)
