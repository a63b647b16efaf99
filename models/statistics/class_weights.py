"""What an image of a rare class weighs in the loss, so that a defect is not drowned by the good parts."""

import numpy as np


def weigh_classes(labels: np.ndarray, classes: int, rare_weight: float) -> np.ndarray | None:
    """Return the weight of an image of each class, ``(K,)`` float32 with mean 1 over the images; None for all alike.

    Args:
        labels: ``(N,)`` integers in 0..K-1.
        classes: K; a class without an image weighs 1, which touches nothing.
        rare_weight: 0 weighs images alike, 1 classes alike; between, by the power of a class's size.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    present = counts > 0
    if rare_weight == 0 or len(set(counts[present])) < 2:
        return None
    weights = np.ones(classes)
    weights[present] = counts[present] ** -rare_weight
    weights[present] *= counts.sum() / (counts * weights)[present].sum()
    return weights.astype(np.float32)
