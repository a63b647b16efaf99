"""What the scores of several candidates amount to together: who is likely the best, and everyone's mean rank."""

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

from regraft.models.statistics.intervals import draw_weights


def bootstrap_best(
    hits: Mapping[str, np.ndarray], draws: int = 200, seed: int = 0, groups: np.ndarray | None = None
) -> dict[str, float]:
    """Return how likely each candidate is the best, 0-1 with sum 1: its share of resamples of the shared images.

    Args:
        hits: Of each candidate ``(N,)``, 0 to 1 for each of the same images in the same order.
        draws: Resamples; candidates that tie for the best share one evenly.
        seed: Of the resampling.
        groups: ``(N,)`` integers, equal for images that belong together: then groups are what is drawn.

    Raises:
        ValueError: If there is no candidate or no image, or the candidates saw different numbers of images.
    """
    sizes = {len(each) for each in hits.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"candidates must share at least one image to be compared on; they saw {sorted(sizes)}.")
    table = np.stack([np.asarray(each, dtype=np.float64) for each in hits.values()], axis=1)  # (N, candidates)
    wins = np.zeros(table.shape[1])
    for weights in draw_weights(np.zeros(len(table), dtype=np.int64), draws, seed, groups):
        sums = weights @ table
        best = sums >= sums.max(axis=1, keepdims=True) - 1e-9  # sums of fractions differ by rounding
        wins += np.sum(best / best.sum(axis=1, keepdims=True), axis=0)
    return dict(zip(hits, (wins / draws).tolist(), strict=True))


def mean_ranks(columns: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Return each candidate's mean rank over the scores, 1 is best (Borda); ties share the mean of their ranks.

    ``columns`` hold each score's value of each candidate; greater is better. One without a value (None, or absent)
    takes the middle rank of those that have one: what is not known speaks neither for nor against it, and a score that
    knows few candidates moves the outcome little. A score that knows none is left out.

    Raises:
        ValueError: If a value is NaN.
    """
    names = sorted({name for column in columns.values() for name in column})
    ranks = []
    for score, column in columns.items():
        known = {name: value for name, value in column.items() if value is not None}
        if any(value != value for value in known.values()):
            raise ValueError(f"score {score} holds NaN; give None where a candidate has no value.")
        if known:
            order = dict(zip(known, rankdata([-value for value in known.values()]), strict=True))
            ranks.append([float(order.get(name, (len(known) + 1) / 2)) for name in names])
    return dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True)) if ranks else dict.fromkeys(names, 1.0)
