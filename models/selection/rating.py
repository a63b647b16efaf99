"""What one candidate backbone shows on a small labelled sample, all of it from one pass over the pixels."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from regraft.models.backbones.hub import Backbone
from regraft.models.backbones.network import read_input
from regraft.models.compute.device import Compute
from regraft.models.features.adabn import list_batchnorms
from regraft.models.features.cache import Features, FeatureStore, FrozenBackbone
from regraft.models.features.linear_probe import CrossValidation, Folds, cross_validate
from regraft.models.selection.candidates import SquareFit, describe_preprocess, sample_rows
from regraft.models.selection.result import SelectConfig
from regraft.models.selection.transferability import Scores, score_all
from regraft.models.statistics.design import Design, count_groups, measure_design
from regraft.models.statistics.intervals import wilson_interval
from regraft.models.statistics.merits import rate_hits
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.decoding.value_range import ValueRange

logger = logging.getLogger(__name__)

PixelsFor = Callable[[PreprocessSpec, np.ndarray], np.ndarray]
"""From a preprocessing and rows of the labels to uint8 images ``(len(rows), S, S, 3)``."""

TRIAL_IMAGES = 120
"""Images on which the source's BatchNorm statistics are compared with the target's, and ways to a square with each
other; the choice is coarse and should not cost a second whole pass."""

ENOUGH_COMPARED = 2
"""Candidates after which a clear answer about the statistics stands for the others."""
DEALT_IMAGES = 300
MOST_REPEATS = 10
"""Fewer images than the first are dealt into folds again and again until so many answers are given, or so often: with
thirty images one way to deal them decided between backbones as much as the backbones did."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all candidates are compared on.

    Attributes:
        rows: Of the labels, ``(N,)``.
        codes: Their classes as 0..K-1, ``(N,)``.
        pixels_for: Gives their images.
        config: Of the selection.
        store: Of features.
        value_range: Which value is white in files deeper than 8 bits.
        groups: ``(N,)`` integers, equal for images that belong together; None where each is one by itself.
    """

    rows: np.ndarray
    codes: np.ndarray
    pixels_for: PixelsFor
    config: SelectConfig
    store: FeatureStore
    value_range: ValueRange | None = None
    groups: np.ndarray | None = None

    def preprocess(self, backbone: Backbone, fit: SquareFit) -> PreprocessSpec:
        """Return how ``backbone`` wants these images."""
        return describe_preprocess(read_input(backbone.folder), fit, self.value_range)

    def pixels(self, backbone: Backbone, fit: SquareFit) -> np.ndarray:
        """Return the images as ``backbone`` wants them."""
        return self.pixels_for(self.preprocess(backbone, fit), self.rows)

    def describe(self) -> str:
        """Return how many images these are, in words."""
        count = count_groups(self.groups)
        return f"{len(self.rows)} training images" + ("" if count is None else f" in {count} groups")

    def narrow(self, images: int) -> "Ground":
        """Return the same with at most so many of its images, stratified."""
        kept = sample_rows(self.codes, np.arange(len(self.codes)), images, self.config.seed)
        groups = None if self.groups is None else self.groups[kept]
        return replace(self, rows=self.rows[kept], codes=self.codes[kept], groups=groups)

    def freeze(self, backbone: Backbone, pixels: np.ndarray, adapt_images: int) -> FrozenBackbone:
        """Return ``backbone`` adapted to at most so many of the images, which are ``pixels``."""
        # Which images it is adapted to does not hang on the seed, as in fine-tuning: so features are found again.
        compute = replace(Compute.of(self.config), seed=0)
        return FrozenBackbone(backbone, pixels, adapt_images=adapt_images, store=self.store, compute=compute)


@dataclass(frozen=True, slots=True)
class Rating:
    """A candidate on N sampled training images of K classes.

    Attributes:
        backbone: The weights.
        spec: How its images were prepared.
        frozen: The network at work, with its features kept.
        features: ``(N, D)``.
        probe: Cross-validated linear probe.
        scores: Scores that need no training.
        adapt_images: Images that its BatchNorm statistics were re-estimated on; 0 keeps the source's.
        groups: ``(N,)`` integers, equal for images that belong together; None where each is one by itself.
        lead: Of the re-estimated statistics over the source's, in standard errors; None where they were not compared.
    """

    backbone: Backbone
    spec: PreprocessSpec
    frozen: FrozenBackbone
    features: Features
    probe: CrossValidation
    scores: Scores
    adapt_images: int
    groups: np.ndarray | None = None
    lead: float | None = None

    def hits(self, labels: np.ndarray) -> np.ndarray:
        """Return whether the probe names each held-out image rightly, ``(N,)`` bool."""
        return rate_hits(self.probe.logits, labels)

    def merit(self, labels: np.ndarray) -> np.ndarray:
        """Return what each image says for the candidate, ``(N,)`` in 0-1: mean of nearest neighbour, ridge, probe.

        The probe speaks through the probability of the true class, which varies less from sample to sample than a hit.
        """
        chosen = likelihoods(self.probe.logits, labels)
        return (self.scores.knn_hits + self.scores.ridge.hits + chosen) / 3

    def interval(self, labels: np.ndarray) -> tuple[float, float, float]:
        """Return the probe's accuracy and its 95 % Wilson interval."""
        right, n, design = int(self.hits(labels).sum()), len(labels), weigh_lead(self.hits(labels), self.groups)
        low, high = wilson_interval(design.shrink(right), design.shrink(n))
        return right / n, float(low), float(high)

    def standard_error(self, labels: np.ndarray) -> float:
        """Return the standard error of the probe's accuracy."""
        hits = self.hits(labels)
        return float(hits.std(ddof=1) / np.sqrt(len(labels) / weigh_lead(hits, self.groups).effect))


def weigh_lead(values: np.ndarray, groups: np.ndarray | None) -> Design:
    """Return the design of the mean of ``values`` ``(N,)``, one for each image, of images in ``groups``."""
    return measure_design((values - values.mean()) / len(values), np.zeros(len(values), dtype=np.int64), groups)


def likelihoods(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probability of each image's own class, ``(N,)``."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return shares[np.arange(len(labels)), labels] / shares.sum(axis=1)


def rate_backbone(backbone: Backbone, fit: SquareFit, ground: Ground, adapt_images: int) -> Rating:
    """Return what the candidate shows on the images of ``ground``, made square by ``fit``.

    A BatchNorm network is tried under the source's statistics and under the target's. Which is better depends on the
    weights: networks trained on photographs lost six points on steel under the target's, weak ones gained. The target's
    must be better by more than one standard error of the log loss of a cross-validated probe. Groups are left out whole
    wherever otherwise an image is.

    Args:
        backbone: The candidate's weights.
        fit: The way to a square.
        ground: What it is compared on.
        adapt_images: Images, at most, that its BatchNorm statistics are re-estimated on; 0 keeps the source's.
    """
    config, labels, groups = ground.config, ground.codes, ground.groups
    pixels = ground.pixels(backbone, fit)
    chosen = choose_statistics(backbone, pixels, ground, adapt_images)
    frozen, adapted, features = chosen.frozen, chosen.adapted, chosen.embed(pixels)
    probe = cross_validate(
        features.values,
        labels,
        classes=int(labels.max()) + 1,
        widths=features.widths,
        folds=Folds(config.folds, count_repeats(len(labels)), config.seed, groups),
    )
    scores = score_all(features.values, labels, groups)
    return Rating(
        backbone, ground.preprocess(backbone, fit), frozen, features, probe, scores, adapted, groups, chosen.lead
    )


def settle_statistics(leads: Iterable[float | None]) -> bool:
    """Say whether the source's BatchNorm statistics are settled for whoever is rated next, by the leads of the others.

    They are once two candidates were compared and all of them did worse by more than one standard error under the
    target's: whether images ask for other statistics is mostly a matter of the images. Decision 41.
    """
    known = [lead for lead in leads if lead is not None]
    return len(known) >= ENOUGH_COMPARED and max(known) < -1


def count_repeats(images: int) -> int:
    """Return how often so many images are dealt into folds."""
    return min(max(1, DEALT_IMAGES // images), MOST_REPEATS)


@dataclass(frozen=True, slots=True)
class ChosenStatistics:
    """A network under the better of two sets of BatchNorm statistics, and what the comparison has computed already.

    Attributes:
        frozen: The network.
        adapted: Images that its statistics were re-estimated on; 0 for the source's.
        rows: Of the images, that it was tried on; empty where nothing was compared.
        known: The features of those rows.
        lead: Of the re-estimated statistics over the source's, in standard errors.
    """

    frozen: FrozenBackbone
    adapted: int
    rows: np.ndarray
    known: Features | None = None
    lead: float | None = None

    def embed(self, pixels: np.ndarray) -> Features:
        """Return the features of all images ``(N, S, S, 3)``; those that are known are not computed again."""
        rest = np.setdiff1d(np.arange(len(pixels)), self.rows)
        if self.known is None or not len(rest):
            return self.known or self.frozen.embed(pixels)
        values = np.empty((len(pixels), self.known.values.shape[1]), dtype=np.float32)
        values[self.rows], values[rest] = self.known.values, self.frozen.embed(pixels[rest]).values
        return Features(values, self.known.widths)


def choose_statistics(backbone: Backbone, pixels: np.ndarray, ground: Ground, adapt_images: int) -> ChosenStatistics:
    """Return the network under its better BatchNorm statistics: re-estimated on ``adapt_images``, or the source's.

    ``pixels`` ``(N, S, S, 3)`` are the images of ``ground``.
    """
    source, config, labels = ground.freeze(backbone, pixels, 0), ground.config, ground.codes
    if adapt_images == 0 or not list_batchnorms(source.network):
        return ChosenStatistics(source, 0, np.arange(0))
    rows = sample_rows(labels, np.arange(len(labels)), max(TRIAL_IMAGES, 2 * len(np.unique(labels))), config.seed)
    rows = rows[np.bincount(labels)[labels[rows]] > 1]  # a single image of a class can be in no fold
    known, codes = np.unique(labels[rows], return_inverse=True)
    if len(known) < 2:
        return ChosenStatistics(source, 0, np.arange(0))
    groups = None if ground.groups is None else ground.groups[rows]
    losses, target, shown = [], ground.freeze(backbone, pixels, adapt_images), []
    for frozen in (source, target):
        features = frozen.embed(pixels[rows])
        shown.append(features)
        found = cross_validate(
            features.values,
            codes,
            classes=len(known),
            widths=features.widths,
            folds=Folds(config.folds, seed=config.seed, groups=groups),
        )
        losses.append(-np.log(likelihoods(found.logits, codes).clip(1e-6)))
    gain = losses[0] - losses[1]
    error = float(gain.std(ddof=1) / np.sqrt(len(gain) / weigh_lead(gain, groups).effect))
    logger.info("statistics tried name=%s gain=%.4f error=%.4f", backbone.name, gain.mean(), error)
    lead = float(gain.mean()) / max(error, 1e-12)
    if lead > 1:
        return ChosenStatistics(target, adapt_images, rows, shown[1], lead)
    return ChosenStatistics(source, 0, rows, shown[0], lead)
