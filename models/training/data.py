"""What the trainer is given: images of both parts in one array, and which rows are which."""

from dataclasses import dataclass

import numpy as np

from regraft.models.statistics.intervals import hold_together


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


def gather_data(
    pixels: np.ndarray, labels: np.ndarray, parts: np.ndarray, groups: np.ndarray | None = None
) -> TrainingData:
    """Return images, labels and the rows of both parts.

    Raises:
        ValueError: If lengths disagree or a part is empty.
    """
    labels, parts = np.asarray(labels, dtype=np.int64), np.asarray(parts)
    train, validation = np.flatnonzero(parts == "train"), np.flatnonzero(parts == "validation")
    if not (len(pixels) == len(labels) == len(parts) and len(train) and len(validation)):
        raise ValueError(
            f"fine-tuning needs images of train and validation; got {len(pixels)} images, {len(labels)} labels, "
            f"{len(train)} train and {len(validation)} validation rows. Look at the split."
        )
    return TrainingData(pixels, labels, train, validation, hold_together(groups))
