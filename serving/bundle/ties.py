"""When two sets of answers name different classes: a tie within the tolerance is no difference."""

import numpy as np


def find_turned(wanted: np.ndarray, got: np.ndarray, tolerance: float) -> np.ndarray:
    """Return which rows name another class, as bool ``(N,)``.

    A row whose two classes are no further apart than ``tolerance`` in ``wanted`` or in ``got`` is a tie: rounding alone
    decides which of them is named, so neither is wrong.

    Args:
        wanted: Probabilities, shape ``(N, K)``.
        got: Probabilities of the same images, shape ``(N, K)``.
        tolerance: Difference of probabilities that counts as none, 0-1.
    """
    rows = np.arange(len(wanted))
    here, there = wanted.argmax(axis=1), got.argmax(axis=1)
    apart_here = wanted[rows, here] - wanted[rows, there]
    apart_there = got[rows, there] - got[rows, here]
    return (here != there) & ~(np.minimum(apart_here, apart_there) <= tolerance)  # what is not a number is no tie
