"""What the trainer is given: images of both parts in one array, and which rows are which."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regraft.models.statistics.intervals import hold_together


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images of all parts, and what is known of each.

    Attributes:
        pixels: uint8 ``(N, S, S, 3)``; a memory map is read batch by batch.
        labels: ``(N,)`` integers into ``names``.
        parts: ``(N,)`` strings: "train", "validation" or "test".
        names: Of the K classes.
        groups: ``(N,)`` integers, equal for images that belong together; None where each is one by itself.
    """

    pixels: np.ndarray
    labels: np.ndarray
    parts: np.ndarray
    names: Sequence[str]
    groups: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Images of both parts in one array; ``train`` and ``validation`` are rows of it.

    ``groups`` are integers, equal for images that belong together; None where each is one by itself.
    """

    pixels: np.ndarray  # (N, S, S, 3) uint8
    labels: np.ndarray  # (N,) int64
    train: np.ndarray
    validation: np.ndarray
    groups: np.ndarray | None = None  # (N,) int64

    def take_groups(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the groups of ``rows``."""
        return None if self.groups is None else self.groups[rows]


def gather_data(images: LabelledImages) -> TrainingData:
    """Return images, labels and the rows of both parts.

    Raises:
        ValueError: If lengths disagree or a part is empty.
    """
    pixels, labels, parts = images.pixels, np.asarray(images.labels, dtype=np.int64), np.asarray(images.parts)
    train, validation = np.flatnonzero(parts == "train"), np.flatnonzero(parts == "validation")
    if not (len(pixels) == len(labels) == len(parts) and len(train) and len(validation)):
        raise ValueError(
            f"fine-tuning needs images of train and validation; got {len(pixels)} images, {len(labels)} labels, "
            f"{len(train)} train and {len(validation)} validation rows. Look at the split."
        )
    return TrainingData(pixels, labels, train, validation, hold_together(images.groups))
