"""Features as a linear head is fitted on them: standardised, and along the directions in which they spread most."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

FEWEST_DIRECTIONS, MOST_NUMBERS = 256, 2**19
"""Directions of the features that a head looks at, the same in cross-validation and in the fit that is kept: as many as
make no more than so many numbers with the rows, but no fewer than that. Up to 724 rows it is all of them."""

MIN_STD_SHARE = 0.1
"""Floor of a feature's standard deviation, as a share of the median: a dead channel must not be blown up."""

LARGE = 1024
"""Rows of a matrix from which BLAS gains by several threads; in smaller ones they wait for each other."""


def measure_spread(features: np.ndarray, widths: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale of each feature, both ``(D,)`` float32: its standard deviation, floored, levelled by block.

    Levelled: a block of few numbers weighs as much under the penalty as one of many, so that the wide last stage does
    not drown the earlier ones.

    Args:
        features: ``(N, D)``.
        widths: Numbers in each block, summing to D; one block when None.
    """
    wide = features.astype(np.float64)
    std = wide.std(axis=0)
    floor = max(MIN_STD_SHARE * float(np.median(std)), 1e-6)
    widths = widths or (wide.shape[1],)
    level = np.repeat(np.sqrt(np.asarray(widths) * len(widths) / sum(widths)), widths)
    return wide.mean(axis=0).astype(np.float32), (np.maximum(std, floor) * level).astype(np.float32)


def find_directions(standard: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised features ``(N, D)`` along their ``most`` strongest directions, and these ``(D, R)``.

    An L2 penalty does not see rotations, so a head loses nothing but the weakest directions, and where there are no
    more than ``most`` images nothing at all. R is ``most`` or the rank, whichever is less; strongest first. As many as
    ``MOST_NUMBERS`` allow when None.
    """
    most = most or max(FEWEST_DIRECTIONS, MOST_NUMBERS // len(standard))
    wide = standard.astype(np.float64)
    few, smaller = len(wide) < wide.shape[1], min(wide.shape)
    with threadpool_limits(torch.get_num_threads() if smaller >= LARGE else 1, user_api="blas"):
        weakest = max(0, smaller - most)
        powers, vectors = eigh(wide @ wide.T if few else wide.T @ wide, subset_by_index=[weakest, smaller - 1])
        powers, vectors = powers[::-1], vectors[:, ::-1]
        there = powers > max(float(powers[0]), 1e-12) * 1e-12
        spread, vectors = np.sqrt(powers[there]), vectors[:, there]
        if few:
            return vectors * spread, wide.T @ (vectors / spread)
        return wide @ vectors, np.ascontiguousarray(vectors)
