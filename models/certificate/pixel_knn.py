"""The condition that learns nothing: nearest neighbours on simple features of the pixels.

What a network cannot beat this with, no weights have helped it to.
"""

import numpy as np
import torch
from torch.nn import functional

from regraft.models.features.directions import measure_spread

THUMBNAIL, CELLS, ORIENTATIONS, TONES = 8, 4, 9, 16
GRADIENT_SIDE = 64
WIDTHS = (3 * THUMBNAIL**2, CELLS**2 * ORIENTATIONS, TONES)
"""Numbers of each block: a colour thumbnail, histograms of gradient directions, a histogram of brightness."""
COUNTS = (1, 3, 5, 9, 15)
"""Neighbours that may vote."""


def describe_pixels(pixels: np.ndarray) -> np.ndarray:
    """Return simple features ``(N, sum(WIDTHS))`` float32 of uint8 images ``(N, S, S, 3)``.

    Source: directions of gradients in cells as Dalal and Triggs 2005, without overlapping blocks.
    """
    parts = [_describe_batch(pixels[start : start + 256]) for start in range(0, len(pixels), 256)]
    return np.concatenate(parts)


def _describe_batch(pixels: np.ndarray) -> np.ndarray:
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    thumbnails = functional.adaptive_avg_pool2d(images, THUMBNAIL).flatten(1)
    grey = functional.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), GRADIENT_SIDE)[:, 0].numpy()  # (B, G, G)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, right)
    turn = np.floor(np.mod(np.arctan2(down, right), np.pi) / np.pi * ORIENTATIONS).astype(int) % ORIENTATIONS
    cells = np.arange(GRADIENT_SIDE) * CELLS // GRADIENT_SIDE
    places = (cells[:, None] * CELLS + cells[None, :]) * ORIENTATIONS  # (G, G)
    bins = (turn + places).reshape(len(grey), -1)
    directions = np.stack(
        [np.bincount(b, s, CELLS**2 * ORIENTATIONS) for b, s in zip(bins, strength.reshape(len(grey), -1), strict=True)]
    )
    by_cell = directions.reshape(len(grey), CELLS**2, ORIENTATIONS)
    by_cell = np.sqrt(by_cell / (by_cell.sum(axis=2, keepdims=True) + 1e-3))
    tones = np.minimum((grey.reshape(len(grey), -1) * TONES).astype(int), TONES - 1)
    shares = np.sqrt(np.stack([np.bincount(row, minlength=TONES) for row in tones]) / tones.shape[1])
    return np.concatenate([thumbnails.numpy(), by_cell.reshape(len(grey), -1), shares], axis=1).astype(np.float32)


def answer_by_neighbours(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, classes: int) -> np.ndarray:
    """Return for each asked image the class that most of its neighbours have, ``(M,)``.

    How many vote is chosen by leaving each known image out; of equals the fewest.

    Args:
        known: Features ``(N, D)``, D in blocks of ``WIDTHS``.
        labels: ``(N,)`` in 0..K-1.
        asked: Features ``(M, D)``.
        classes: K.
    """
    mean, std = measure_spread(known, WIDTHS)
    ours, theirs = ((values - mean) / std for values in (known, asked))
    among = _measure_distances(ours, ours)
    np.fill_diagonal(among, np.inf)
    counts = [count for count in COUNTS if count < len(known)] or [1]
    hits = [np.mean(_vote(among, labels, classes, count) == labels) for count in counts]
    return _vote(_measure_distances(theirs, ours), labels, classes, counts[int(np.argmax(hits))])


def _measure_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :] - 2 * a @ b.T


def _vote(distances: np.ndarray, labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Return the class with most votes among the ``count`` nearest; the nearer ones decide a tie."""
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
    votes = np.zeros((len(distances), classes))
    for rank in range(nearest.shape[1]):
        votes[np.arange(len(distances)), labels[nearest[:, rank]]] += 1 + 1e-3 / (rank + 1)
    return votes.argmax(axis=1)
