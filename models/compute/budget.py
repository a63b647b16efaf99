"""How much to train within a time budget: epochs and depth from counted work, the learning rate of every step.

The clock is never asked, so a resumed run, another machine and another driver train the same number of steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from regraft.models.compute.cost import GroupWork

BACKWARD_FLOPS, BACKWARD_BYTES = 3.0, 4.5
"""Forward and backward together, as multiples of forward alone; the second measured on MobileNetV2 and ViT-tiny."""

STEP_OVERHEAD_S = 0.01
"""Interpreter and optimiser per step, on top of the counted work; matters for very small networks only."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What a nominal machine does in a second: billions of operations, billions of activation bytes."""

    gflops: float
    gigabytes: float

    def forward_s(self, work: list[GroupWork]) -> float:
        """Return seconds per image forward through ``work``."""
        return sum(group.gflops / self.gflops + group.gigabytes / self.gigabytes for group in work)

    def train_s(self, work: list[GroupWork], frozen: int) -> float:
        """Return seconds per image of a training step when the first ``frozen`` groups only go forward."""
        trained = work[frozen:]
        backward = sum(
            group.gflops * BACKWARD_FLOPS / self.gflops + group.gigabytes * BACKWARD_BYTES / self.gigabytes
            for group in trained
        )
        return self.forward_s(work[:frozen]) + backward


# Two cores with AVX2: 280 GFLOP/s and 9 GB/s were measured on an idle machine; taken slower, machines are shared.
NOMINAL_SPEEDS = {"cpu": Speed(200.0, 6.5), "cuda": Speed(15_000.0, 500.0)}


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What fine-tuning will do; a verdict on the budget.

    Attributes:
        steps: Optimiser steps in all; 0 when nothing fits.
        steps_per_epoch: Steps until the validation part is scored.
        frozen_groups: Depth groups, from the input, that keep their pretrained weights.
        groups: Depth groups in all.
        batch_size: Images per step.
        reason: In words.
        views: Views of each training image whose activations behind the frozen groups are kept; 0 computes them anew
            in every step.
    """

    steps: int
    steps_per_epoch: int
    frozen_groups: int
    groups: int
    batch_size: int
    reason: str
    views: int = 0

    @property
    def epochs(self) -> int:
        """Return the number of passes over the training part."""
        return self.steps // self.steps_per_epoch


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """Images that work is counted for.

    Attributes:
        train: Trained on.
        validation: Scored after every epoch.
        adapted: BatchNorm statistics are re-estimated on.
    """

    train: int
    validation: int
    adapted: int = 0


@dataclass(frozen=True, slots=True)
class TrainingLimits:
    """What training may take.

    Attributes:
        budget_s: Seconds for everything: adaptation, features for the probe, fine-tuning.
        batch_size: Wanted; lowered to the training images.
        min_epochs: Fewer are not worth it while freezing more could afford them.
        max_epochs: More are not trained, however small the network.
    """

    budget_s: float
    batch_size: int
    min_epochs: int
    max_epochs: int


def plan_training(
    work: list[GroupWork],
    speed: Speed,
    images: ImageCounts,
    limits: TrainingLimits,
    views_for: Callable[[int], int] = lambda _frozen: 0,
) -> TrainingPlan:
    """Return how deep and how long to train: the smallest frozen prefix with which ``min_epochs`` fit.

    Args:
        work: Cost of each depth group.
        speed: Of the nominal machine.
        images: Of each kind.
        limits: Budget, batch and epochs.
        views_for: From frozen groups to the views whose activations can be kept behind them; 0 where none can.
    """
    batch_size = min(limits.batch_size, images.train)
    steps_per_epoch = images.train // batch_size
    left = limits.budget_s - (images.adapted + images.train + images.validation) * speed.forward_s(work)
    groups, epochs, frozen, views = len(work), 0, 0, 0
    for frozen in range(groups if left > 0 else 0):  # to ask what crosses each cut takes a second
        views = views_for(frozen) if frozen else 0
        epochs = min(limits.max_epochs, count_epochs(work, speed, images, batch_size, frozen, views, left))
        if epochs >= min(limits.min_epochs, limits.max_epochs):
            break
    budget = f"{limits.budget_s:g} s"
    reason = f"{epochs} epochs over the last {groups - frozen} of {groups} depth groups fit into {budget}"
    if limits.max_epochs == 0:
        reason = "no epoch was asked for; the linear probe stands"
    elif epochs == 0:
        reason = f"not one epoch over {images.train} images fits into {budget}; the linear probe stands"
    views = min(views, epochs)
    return TrainingPlan(epochs * steps_per_epoch, steps_per_epoch, frozen, groups, batch_size, reason, views)


def count_epochs(
    work: list[GroupWork], speed: Speed, images: ImageCounts, batch_size: int, frozen: int, views: int, left_s: float
) -> int:
    """Return the epochs that fit into ``left_s`` seconds behind ``frozen`` groups whose activations ``views`` keep."""
    kept = frozen if views else 0
    prefix_s = speed.forward_s(work[:kept])
    image_s = speed.train_s(work[kept:], frozen - kept)
    steps = images.train // batch_size
    epoch_s = steps * (batch_size * image_s + STEP_OVERHEAD_S) + images.validation * speed.forward_s(work[kept:])
    fresh_s = epoch_s + images.train * prefix_s  # an epoch that first computes its view
    rest = left_s - images.validation * prefix_s
    fresh = min(views, math.floor(rest / fresh_s)) if views else 0
    more = max(0, math.floor((rest - fresh * fresh_s) / epoch_s)) if fresh == views else 0
    return max(0, fresh + more)


def scale_rate(step: int, steps: int, warmup_share: float) -> float:
    """Return the factor on the peak learning rate at ``step`` (from 0): linear warm-up, then half a cosine to 0."""
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
