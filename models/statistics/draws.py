"""Draws of labelled images: which a certificate looks at, in which order they come, how many at a time."""

from collections.abc import Sequence

import numpy as np

from regraft.models.statistics.intervals import hold_together

KNOWN_SHARE = 0.8
"""Of the known images that one draw takes at most: with all of them no two draws would differ."""
POOL = 2
"""Times a draw's images that are looked at where there are more: the draws then share half of theirs at least."""
HELD_EVERY = 5
"""Of each class every fifth image of a draw decides between the trials."""


def choose_rows(
    labels: np.ndarray,
    parts: np.ndarray,
    max_images: int,
    max_test: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Return the rows that a certificate looks at, sorted: enough known images for all draws, and the test images.

    Args:
        labels: ``(N,)`` integers.
        parts: ``(N,)`` strings: "train" and "validation" are known.
        max_images: Of a draw.
        max_test: Test images at most.
        seed: Of both choices.
        groups: ``(N,)`` integers: the known images are then whole groups; test images are drawn one by one.
    """
    known, test = np.flatnonzero(np.isin(parts, ("train", "validation"))), np.flatnonzero(parts == "test")
    known = order_rows(labels, known, [seed, 1], hold_together(groups))[: POOL * max_images]
    return np.sort(np.concatenate([known, order_rows(labels, test, [seed, 2])[:max_test]]))


def list_sizes(n: int, classes: int, shares: Sequence[float]) -> list[int]:
    """Return the sizes of the learning curve, ascending, each with two images of every class; ``n`` is the last."""
    sizes = {round(share * n) for share in shares}
    return sorted({size for size in sizes if 2 * classes <= size < n} | {n})


def order_rows(
    labels: np.ndarray, rows: np.ndarray, seed: Sequence[int], groups: np.ndarray | None = None
) -> np.ndarray:
    """Return ``rows`` shuffled so that every beginning of the order has the classes in their proportion.

    With ``groups`` ``(N,)`` of the images, groups are shuffled and each class takes one after the other: more labels
    then mean more coils or patients, as they do where images are collected, not more pictures of all of them.

    Of every class with two rows or more the second comes before anything else does that is not a class's first or
    second: a beginning of twice the classes holds two of each.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(np.sort(rows))
    if groups is not None:
        names, members = np.unique(groups[shuffled], return_inverse=True)
        shuffled = shuffled[np.argsort(generator.permutation(len(names))[members], kind="stable")]
    places = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        members = np.flatnonzero(labels[shuffled] == label)
        places[members] = (np.arange(len(members)) + 0.5) / len(members)
        places[members[:2]] -= 1
    return shuffled[np.argsort(places, kind="stable")]


def mark_held(labels: np.ndarray) -> np.ndarray:
    """Return which images of an ordered draw decide between trials, bool ``(n,)``: of each class the 2nd, 7th, 12th."""
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        held[np.flatnonzero(labels == label)[1::HELD_EVERY]] = True
    return held
