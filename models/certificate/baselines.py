"""The conditions of a transfer certificate: pretrained weights, the same network without them, and no network at all.

A network has two trials on every draw, a linear probe and training within a counted budget; images of the draw that
neither has learned from decide between them, test images never.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from regraft.models.backbones.hub import Backbone
from regraft.models.backbones.intermediate_features import list_widths, stage_backbone
from regraft.models.backbones.network import Normalization, build_architecture, read_config, read_input
from regraft.models.certificate.pixel_knn import answer_by_neighbours, describe_pixels
from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.device import Compute, choose_device
from regraft.models.features.adabn import adapt_batchnorm
from regraft.models.features.cache import FeatureStore, FrozenBackbone
from regraft.models.features.extract import extract_features
from regraft.models.features.linear_probe import Folds, cross_validate, fit_probe, sum_log_loss
from regraft.models.heads.data import LabelledImages, TrainingData
from regraft.models.statistics.draws import choose_rows, mark_held
from regraft.models.statistics.intervals import hold_together
from regraft.models.statistics.merits import rate_hits
from regraft.models.training.batches import PixelFeed, score_images, seed_of
from regraft.models.training.config import FinetuneConfig, make_plan
from regraft.models.training.finetune import build_classifier
from regraft.models.training.loop import set_training_mode
from regraft.models.training.optimizer import build_optimizer
from regraft.models.training.step import Stepper, TrainingDiverged, TrainingSetup

logger = logging.getLogger(__name__)

Kind = Literal["probe", "trained", "neighbours"]
CS = (0.001, 0.01, 0.1)
"""Inverse penalties of the probe that are tried: a coarser grid than fine-tuning has, the same for both networks."""


@dataclass(frozen=True, slots=True)
class Material:
    """What all conditions are given.

    Attributes:
        pixels: uint8 ``(N, S, S, 3)``.
        labels: ``(N,)`` int64 in 0..K-1.
        known: Rows that may be learned from.
        test: Rows that judge.
        classes: K.
        groups: ``(N,)`` integers, equal for images that belong together; None where each is one by itself.
    """

    pixels: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    test: np.ndarray
    classes: int
    groups: np.ndarray | None = None

    @property
    def answers(self) -> np.ndarray:
        """Return the true classes of the test rows."""
        return self.labels[self.test]

    @property
    def judges(self) -> np.ndarray | None:
        """Return the groups of the test rows."""
        return None if self.groups is None else self.groups[self.test]


def draw_material(images: LabelledImages, max_images: int, max_test: int, seed: int) -> Material:
    """Return the images that a certificate rests on: draws of at most ``max_images`` labels, ``max_test`` judge."""
    labels, parts = np.asarray(images.labels, dtype=np.int64), np.asarray(images.parts)
    groups = hold_together(images.groups)
    chosen = choose_rows(labels, parts, max_images, max_test, seed, groups)
    known, test = (chosen[mask] for mask in (parts[chosen] != "test", parts[chosen] == "test"))
    return Material(images.pixels, labels, known, test, len(images.names), groups)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One condition on one draw: the merit of its answer to each test image, and how it came about.

    Attributes:
        merits: ``(I,)``, 0-1; right or wrong is 1 or 0.
        kind: The trial that was taken.
        steps: Of the training trial, whether it was taken or not.
        frozen_groups: Depth groups that it left as they were.
    """

    merits: np.ndarray
    kind: Kind
    steps: int = 0
    frozen_groups: int = 0


class NetworkCondition:
    """A network and its frozen features of all rows that one draw touches."""

    def __init__(
        self, network: nn.Module, normalization: Normalization, features: np.ndarray, rows: np.ndarray
    ) -> None:
        """Start from the weights that ``network`` has now; ``features`` ``(len(rows), D)`` are those of ``rows``."""
        self.normalization, self.features = normalization, features
        self._network, self._state = network, {n: v.detach().cpu().clone() for n, v in network.state_dict().items()}
        self._places = {int(row): place for place, row in enumerate(rows)}

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of ``rows``."""
        return self.features[[self._places[int(row)] for row in rows]]

    def restore(self) -> nn.Module:
        """Return the network as it was in the beginning, every parameter trainable again."""
        self._network.load_state_dict(self._state)
        return self._network.requires_grad_(requires_grad=True).eval()


def open_transfer(
    backbone: Backbone, material: Material, adapt_images: int, recipe: FinetuneConfig
) -> NetworkCondition:
    """Return the condition of the pretrained weights; one pass over the images serves all draws."""
    frozen = FrozenBackbone(
        backbone,
        material.pixels,
        rows=material.known,
        adapt_images=adapt_images,
        store=FeatureStore(None),
        compute=Compute.of(recipe),
    )
    rows = np.concatenate([material.known, material.test])
    features = frozen.embed(material.pixels, rows=rows)
    return NetworkCondition(frozen.network, frozen.normalization, features.values, rows)


def open_scratch(
    backbone: Backbone, material: Material, rows: np.ndarray, draw: int, recipe: FinetuneConfig
) -> NetworkCondition:
    """Return the condition of timm's random initialisation, a new one for every draw.

    BatchNorm is estimated on ``rows``, the images of the draw: a random network saturates or dies without it.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(recipe.seed, 5, draw))
        network = build_architecture(read_config(backbone.folder)).eval()
    normalization = read_input(backbone.folder).normalization
    adapt_batchnorm(network, material.pixels, normalization, rows=np.sort(rows), compute=Compute.of(recipe))
    network = stage_backbone(network, material.pixels.shape[1])
    everything = np.concatenate([rows, material.test])
    features = extract_features(network, material.pixels, normalization, rows=everything, device=recipe.device)
    return NetworkCondition(network, normalization, features, everything)


def run_network(condition: NetworkCondition, material: Material, rows: np.ndarray, recipe: FinetuneConfig) -> Outcome:
    """Return how the better of both trials on ``rows`` answers the test images.

    Args:
        condition: The network.
        material: Images and labels.
        rows: The labelled images, in the order of the draw.
        recipe: Of training, with its budget.
    """
    labels = material.labels[rows]
    held = mark_held(labels)
    network = condition.restore()
    widths = list_widths(network, material.pixels.shape[1])
    train = condition.take(rows[~held])
    found = cross_validate(
        train,
        labels[~held],
        classes=material.classes,
        widths=widths,
        cs=CS,
        folds=Folds(3, groups=None if material.groups is None else material.groups[rows[~held]]),
    )
    c = found.c
    probe = fit_probe(train, labels[~held], classes=material.classes, c=c, widths=widths)
    device = choose_device(recipe.device)
    classifier = build_classifier(network, condition.normalization, widths, material.classes, device)
    classifier.load_probe(probe)
    data = TrainingData(material.pixels, material.labels, rows[~held], rows[held])
    # A probe without an error on the images that decide is not trained on: the simpler head stays in doubt.
    perfect = bool(np.all(rate_hits(probe.score(condition.take(rows[held])), labels[held])))
    steps, frozen = (0, 0) if perfect else train_condition(classifier, data, recipe)
    said = score_images(classifier, data, data.validation, recipe.batch_size) if steps else None
    if said is None or not _is_better(said, probe.score(condition.take(rows[held])), labels[held]):
        everything = condition.take(rows)  # nothing is left to choose: the held-out images teach too
        probe = fit_probe(everything, labels, classes=material.classes, c=c, widths=widths)
        answers, kind = probe.score(condition.take(material.test)), "probe"
    else:
        answers, kind = score_images(classifier, data, material.test, recipe.batch_size), "trained"
    return Outcome(rate_hits(answers, material.answers), kind, steps, frozen)


def train_condition(classifier: Classifier, data: TrainingData, recipe: FinetuneConfig) -> tuple[int, int]:
    """Train within the counted budget and keep the last weights; return the steps and the frozen depth groups.

    The best epoch on the images that decide between trials would flatter training, so none is looked for. Training that
    diverges is a trial that is not taken: no steps.
    """
    torch.manual_seed(recipe.seed)
    plan = make_plan(classifier, data, data.pixels.shape[1], recipe, classifier.head.weight.device)
    optimizer = build_optimizer(classifier, plan.frozen_groups, recipe.loop)
    feed = PixelFeed(classifier, data, recipe.loop.augment, recipe.seed)
    stepper = Stepper(classifier, optimizer, TrainingSetup(feed, data, plan, recipe.loop, recipe.seed))
    set_training_mode(classifier, plan.batch_size)
    try:
        for step in range(plan.steps):
            stepper.take(step)
        stepper.settle()
    except TrainingDiverged as exc:
        logger.warning("a trial of the certificate diverged and is not taken: %s", exc)
        return 0, plan.frozen_groups
    return plan.steps, plan.frozen_groups


def _is_better(trained: np.ndarray, probed: np.ndarray, labels: np.ndarray) -> bool:
    """Say whether training answers the held-out images better: more of them rightly, or as many with less loss."""
    (hits, loss), (probe_hits, probe_loss) = (
        (int(np.sum(rate_hits(logits, labels))), sum_log_loss(logits.astype(np.float64), labels))
        for logits in (trained, probed)
    )
    return (hits, -loss) > (probe_hits, -probe_loss)


def open_neighbours(material: Material) -> Callable[[np.ndarray], Outcome]:
    """Return the condition that learns nothing, as a function of the labelled rows."""
    rows = np.concatenate([material.known, material.test])
    features = describe_pixels(material.pixels[rows])
    places = {int(row): place for place, row in enumerate(rows)}

    def take(chosen: np.ndarray) -> np.ndarray:
        return features[[places[int(row)] for row in chosen]]

    def run(chosen: np.ndarray) -> Outcome:
        said = answer_by_neighbours(take(chosen), material.labels[chosen], take(material.test), material.classes)
        return Outcome(said == material.answers, "neighbours")

    return run
